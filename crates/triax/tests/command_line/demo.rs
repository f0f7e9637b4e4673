//! The demo on a small text in a very short time.

use super::{errors, lines, run, succeed, text};
use std::fs;

#[test]
fn a_short_demo_leaves_report_summary_and_a_model_that_generates() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("code.txt"), text(4000)).unwrap();
    let arguments = ["demo", "--input", "code.txt", "--out", "shown", "--minutes", "0.02", "--json"];
    let output = succeed(folder, &arguments);
    let summary = lines(&output).remove(0);
    for key in ["seconds", "tokens_per_s", "bits_per_byte", "xz_bits_per_byte", "zstd_bits_per_byte"] {
        assert!(summary[key].as_f64().unwrap() > 0.0, "{key} of {summary}");
    }
    assert_eq!(summary["sources"][0]["name"], "code");
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("shown/summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
    let report = fs::read_to_string(folder.join("shown/report.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("xz -9") && report.ends_with("</html>\n"));
    assert!(errors(&output).contains("7/7"));
    let compared = summary["comparison"]["rows"].as_array().unwrap();
    assert!(compared.len() > 1 && compared.iter().all(|row| row["difference"].is_null()), "{summary}");
    assert!(report.contains("The same bits in every layout") && !folder.join("shown/layouts").exists());

    succeed(folder, &["generate", "shown/run", "--prompt", "let ", "--max-tokens", "5"]);

    // The demo replaces its own folder, and no other.
    succeed(folder, &arguments);
    let refused = run(folder, &["demo", "--input", "code.txt", "--out", "."]);
    assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
}
