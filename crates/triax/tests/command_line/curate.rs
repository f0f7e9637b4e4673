//! `triax curate`: a recipe from the command line, its output, and what was removed.

use super::{errors, lines, run, succeed};
use std::fs;
use std::path::Path;

const RECIPE: &str = r#"
[[source]]
name = "web"
paths = ["web.jsonl"]
[[step]]
kind = "size"
min_bytes = 20
[[step]]
kind = "exact_dedup"
"#;

fn inputs(folder: &Path) {
    let texts = [
        "a text that is long enough to be kept",
        "short",
        "a text that is there twice, I say",
        "one more text, of its own",
    ];
    let text = |number: usize| if number.is_multiple_of(5) { texts[2] } else { texts[number % 4] };
    let rows = (0..40).map(|number| {
        let text =
            if number % 4 == 1 { "short".to_owned() } else { format!("{} {}", text(number), number / 10) };
        format!("{}\n", serde_json::json!({ "text": text, "url": format!("http://host/{number}") }))
    });
    fs::write(folder.join("web.jsonl"), rows.collect::<String>()).unwrap();
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
}

#[test]
fn a_recipe_ends_in_documents_a_manifest_that_balances_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    inputs(folder);
    let arguments = ["curate", "recipe.toml", "--set", "step.size.min_bytes=10", "--out", "out", "--json"];
    let outcome = lines(&succeed(folder, &arguments)).remove(0);
    let number = |key: &str| outcome[key].as_u64().unwrap();
    assert_eq!(number("found"), 40);
    assert_eq!(number("kept") + number("removed"), 40);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["recipe"]["step"][0]["min_bytes"], 10);
    assert!(fs::read_to_string(folder.join("out/report.html")).unwrap().ends_with("</html>"));
    assert!(folder.join("out/documents/web/shard-00000.jsonl.zst").is_file());

    let removed = lines(&succeed(
        folder,
        &["curate", "inspect", "out", "--reason", "too_short", "--limit", "0", "--json"],
    ));
    assert_eq!(removed.len(), 10);
    assert!(removed.iter().all(|document| document["text"] == "short" && document["step"] == "size"));
    let shown = succeed(folder, &["curate", "inspect", "out", "--step", "exact_dedup", "--limit", "1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("http://host/"));

    // Once more: nothing is left to do, and the outcome is the same.
    let again = lines(&succeed(folder, &arguments)).remove(0);
    assert_eq!(again["kept"], outcome["kept"]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    inputs(folder);
    for (arguments, part) in [
        (
            &["curate", "recipe.toml", "--set", "step.size.min_bites=1", "--out", "out"][..],
            "step.size.min_bytes",
        ),
        (&["curate", "crawl-em", "--out", "out"], "crawl-en"),
        (&["curate", "crawl-en", "--out", "out"], "--set source.crawl.paths"),
        (
            &["curate", "recipe.toml", "--rank", "3", "--world", "2", "--out", "out"],
            "ranks are counted from 0",
        ),
        (&["curate", "recipe.toml"], "--out"),
    ] {
        let output = run(folder, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(part), "{arguments:?}: {}", errors(&output));
        assert!(!folder.join("out").exists(), "{arguments:?}");
    }
    let printed = succeed(folder, &["curate", "recipe.toml", "--print"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("max_seconds") && printed.contains("min_bytes = 20"));
}
