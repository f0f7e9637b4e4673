//! Token files are those that Megatron's way in Python writes (`golden/curation/tokens.py`), byte for byte.

use std::path::Path;
use triax_curate::tokens::{BlendSource, Share, write_blend};
use triax_data::{Reader, Reading, Tokenizer, tokenize};

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens")
}

fn bytes(prefix: &Path, ending: &str) -> Vec<u8> {
    std::fs::read(prefix.with_extension(ending)).expect("the pair was written")
}

#[test]
fn token_files_are_those_of_megatron() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::load(&golden().join("tokenizer.json")).unwrap();
    for threads in [1, 3] {
        let prefix = folder.path().join(threads.to_string());
        let inputs = [golden().join("documents.jsonl")];
        let made = tokenize(&inputs, &tokenizer, &prefix, &Reading::default(), threads, |_| ()).unwrap();
        assert_eq!((made.documents, made.empty), (7, 1));
        for ending in ["bin", "idx"] {
            assert!(bytes(&prefix, ending) == bytes(&golden().join("expected"), ending), ".{ending} differs");
        }
    }
}

#[test]
fn a_blend_of_one_source_is_its_documents_in_another_order() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::load(&golden().join("tokenizer.json")).unwrap();
    let prefix = folder.path().join("source");
    tokenize(&[golden().join("documents.jsonl")], &tokenizer, &prefix, &Reading::default(), 1, |_| ())
        .unwrap();
    let source = BlendSource { name: "golden".into(), prefix: prefix.clone(), share: Share::Epochs(2.0) };
    let blend = folder.path().join("blend");
    write_blend(&[source], None, 3, &blend, |_, _| ()).unwrap();
    let documents = |prefix: &Path| {
        let reader = Reader::open(prefix).unwrap();
        (0..reader.documents()).map(|document| reader.read_document(document).unwrap()).collect::<Vec<_>>()
    };
    let (once, mut twice) = (documents(&prefix), documents(&blend));
    let mut expected: Vec<_> = once.iter().chain(&once).cloned().collect();
    assert_ne!(twice, expected);
    expected.sort();
    twice.sort();
    assert_eq!(twice, expected);
}
