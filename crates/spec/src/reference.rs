//! The reference page of run files, made from the table of keys.

use crate::keys::KEYS;
use crate::presets::PRESETS;

/// `docs/run-file.md`, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# Run files\n\n\
         A run file is TOML. Every value can be overridden on the command line with `--set a.b=c`, where `c` is TOML or\n\
         a bare word; `--set data.blend.0.weight=2` reaches into arrays. Unknown keys, wrong types, values out of range and\n\
         values that contradict each other are errors, all reported together before anything is allocated.\n\n\
         Amounts are counted in `steps`, `samples` or `tokens`, with `k`, `M`, `B` and `T` for thousands to trillions:\n\
         `\"500 steps\"`, `\"3k samples\"`, `\"12B tokens\"`.\n\n\
         This page is generated from the program's own table of keys.\n",
    );
    let mut section = "";
    for key in KEYS {
        let above = key.path.split_once('.').map_or("", |(above, _)| above);
        if above != section {
            page.push_str(&format!(
                "\n## [{above}]\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
            ));
            section = above;
        }
        let only = key.only.as_ref().map_or(String::new(), |only| format!("; only with `{}`", only.setting));
        page.push_str(&format!(
            "| `{}` | {} | {} | {}{only} |\n",
            key.path.strip_prefix(&format!("{above}.")).unwrap_or(key.path),
            if key.path == "model.preset" {
                "a name from the list below".to_owned()
            } else {
                key.kind.describe()
            },
            key.default,
            key.about,
        ));
    }
    page.push_str("\n## Presets\n\n| name | parameters | sequence | source |\n|---|---|---|---|\n");
    for preset in &PRESETS {
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            preset.name,
            crate::parameters(&preset.model),
            preset.model.sequence,
            preset.about
        ));
    }
    page
}
