//! A resolved run as a run file, every value spelled out; reading it gives the same run.

use crate::keys::{KEYS, quoted};
use crate::run::{Run, Source};

impl Run {
    /// The run file that gives exactly this run, with nothing left to defaults or presets.
    ///
    /// Values that no run file could have given (a zero size, a path that is not text) are written as they are
    /// and refused when read.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            let (above, path) = key.path.split_once('.').unwrap_or(("", key.path));
            let value = match key.path {
                "data.blend[].path" => sources(&self.data.blend),
                "data.validation[].path" => sources(&self.data.validation),
                _ => (key.show)(self),
            };
            let Some(value) = value else { continue };
            if above != section {
                let blank = if section.is_empty() { "" } else { "\n" };
                out.push_str(&format!("{blank}[{above}]\n"));
                section = above;
            }
            let path = path.strip_suffix("[].path").unwrap_or(path);
            out.push_str(&format!("{path} = {value}\n"));
        }
        out
    }
}

fn sources(sources: &[Source]) -> Option<String> {
    if sources.is_empty() {
        return None;
    }
    let mut out = "[\n".to_owned();
    for source in sources {
        let path = quoted(source.path.display()).unwrap_or_default();
        out.push_str(&format!("    {{ path = {path}, weight = {:?} }},\n", source.weight));
    }
    out.push(']');
    Some(out)
}
