//! The `.bin/.idx` pair byte by byte: golden files, round trips, and every kind of damage refused by name.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use triax_data::{DataError, Identity, IndexFault, Reader, TokenType, Writer, fuzz_idx};

/// An `.idx` laid out by hand from the format's table, not by the writer.
fn idx_bytes(code: u8, lengths: &[i32], size: i64, borders: &[i64], modes: &[i8]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00".to_vec();
    bytes.push(code);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((borders.len() as u64).to_le_bytes());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut pointer = 0i64;
    for &length in lengths {
        bytes.extend(pointer.to_le_bytes());
        pointer += i64::from(length) * size;
    }
    borders.iter().for_each(|border| bytes.extend(border.to_le_bytes()));
    bytes.extend(modes.iter().map(|&mode| mode as u8));
    bytes
}

/// Tokens 1, 2, 3 | 100 | (empty) with the second document made of two sequences.
fn golden(code: u8) -> (Vec<u8>, Vec<u8>) {
    let tokens = [1u8, 2, 3, 100];
    let bin: Vec<u8> = match code {
        1 | 2 => tokens.to_vec(),
        3 | 8 => tokens.iter().flat_map(|&id| [id, 0]).collect(),
        4 => tokens.iter().flat_map(|&id| [id, 0, 0, 0]).collect(),
        5 => tokens.iter().flat_map(|&id| [id, 0, 0, 0, 0, 0, 0, 0]).collect(),
        // IEEE 754: 1 = 3ff0…, 2 = 4000…, 3 = 4008…, 100 = 4059…
        6 => [[0x3f, 0xf0], [0x40, 0x00], [0x40, 0x08], [0x40, 0x59]]
            .iter()
            .flat_map(|&[high, low]| [0, 0, 0, 0, 0, 0, low, high])
            .collect(),
        // 1 = 3f800000, 2 = 40000000, 3 = 40400000, 100 = 42c80000
        7 => [[0x3f, 0x80], [0x40, 0x00], [0x40, 0x40], [0x42, 0xc8]]
            .iter()
            .flat_map(|&[high, low]| [0, 0, low, high])
            .collect(),
        _ => unreachable!(),
    };
    let size = bin.len() as i64 / 4;
    (idx_bytes(code, &[3, 1, 0], size, &[0, 1, 3], &[]), bin)
}

fn place(directory: &Path, idx: &[u8], bin: &[u8]) -> PathBuf {
    let prefix = directory.join("some.tokens");
    fs::write(directory.join("some.tokens.idx"), idx).unwrap();
    fs::write(directory.join("some.tokens.bin"), bin).unwrap();
    prefix
}

#[test]
fn golden_files_of_every_type_are_read() {
    let directory = tempfile::tempdir().unwrap();
    for code in 1..=8 {
        let (idx, bin) = golden(code);
        let reader = Reader::open(&place(directory.path(), &idx, &bin)).unwrap();
        assert_eq!(reader.token_type().code(), code);
        assert_eq!((reader.documents(), reader.sequences(), reader.tokens()), (2, 3, 4));
        assert_eq!(reader.read_document(0).unwrap(), [1, 2, 3]);
        assert_eq!(reader.read_document(1).unwrap(), [100]);
        assert_eq!((reader.sequence(2), reader.sequence(3)), (Some(4..4), None));
        let mut middle = [0; 2];
        reader.read(2, &mut middle).unwrap();
        assert_eq!(middle, [3, 100]);
        assert!(matches!(reader.read(3, &mut middle), Err(DataError::TokenRange { end: 5, tokens: 4, .. })));
    }
}

#[test]
fn golden_files_of_every_type_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("deep/written.v1");
    for code in 1..=8 {
        let mut writer = Writer::create(&prefix, TokenType::from_code(code).unwrap(), None).unwrap();
        writer.push_document(&[1, 2, 3]).unwrap();
        writer.push_sequence(&[100]).unwrap();
        writer.push_sequence(&[]).unwrap();
        let written = writer.finish().unwrap();
        assert_eq!((written.documents, written.sequences, written.tokens), (2, 3, 4));
        let (idx, bin) = golden(code);
        assert_eq!(fs::read(directory.path().join("deep/written.v1.idx")).unwrap(), idx);
        assert_eq!(fs::read(directory.path().join("deep/written.v1.bin")).unwrap(), bin);
    }
}

#[test]
fn modes_are_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let idx = idx_bytes(8, &[1, 1], 2, &[0, 2], &[0, -1]);
    let reader = Reader::open(&place(directory.path(), &idx, &[5, 0, 6, 0])).unwrap();
    assert_eq!(reader.modes(), Some(&[0, -1][..]));
    let mut writer = Writer::create(&directory.path().join("m"), TokenType::U16, None).unwrap();
    writer.push_sequence(&[5]).unwrap();
    writer.push_sequence_with_mode(&[6], -1).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(directory.path().join("m.idx")).unwrap(), idx);
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&directory.path().join("x"), TokenType::U8, None).unwrap();
    writer.push_document(&[1]).unwrap();
    assert!(matches!(writer.push_document(&[256]), Err(DataError::TokenTooWide { id: 256, .. })));
    drop(writer);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_new_pair_replaces_the_identity_of_the_old() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("x");
    let identity = Identity { name: "t".into(), vocab: 9, hash: "ab".into(), eod: Some(0) };
    Writer::create(&prefix, TokenType::U8, Some(identity.clone())).unwrap().finish().unwrap();
    assert_eq!(Reader::open(&prefix).unwrap().identity(), Some(&identity));
    Writer::create(&prefix, TokenType::U8, None).unwrap().finish().unwrap();
    assert_eq!(Reader::open(&prefix).unwrap().identity(), None);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_damaged_identity_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (idx, bin) = golden(8);
    let prefix = place(directory.path(), &idx, &bin);
    for text in [
        "{",
        r#"{"name":"t","vocab":9,"hash":"ab","eod":9}"#,
        r#"{"name":"t","vocab":9,"hash":"","eod":1,"x":1}"#,
    ] {
        fs::write(directory.path().join("some.tokens.tokenizer.json"), text).unwrap();
        let error = Reader::open(&prefix).unwrap_err().to_string();
        assert!(error.contains("some.tokens.tokenizer.json"), "{error}");
    }
}

fn fault(idx: &[u8]) -> IndexFault {
    let directory = tempfile::tempdir().unwrap();
    let prefix = place(directory.path(), idx, &[0; 8]);
    let error = Reader::open(&prefix).unwrap_err();
    assert!(error.to_string().contains("some.tokens.idx"), "{error}");
    match error {
        DataError::Index { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

fn with(position: usize, replacement: &[u8]) -> Vec<u8> {
    let (mut idx, _) = golden(8);
    idx[position..position + replacement.len()].copy_from_slice(replacement);
    idx
}

#[test]
fn each_broken_rule_of_the_index_is_named() {
    let (idx, _) = golden(8);
    // Arrays of 3 sequences: lengths at 34, pointers at 46, borders at 70.
    assert_eq!(fault(&idx[..33]), IndexFault::NoHeader { length: 33 });
    assert!(matches!(fault(&with(7, &[1])), IndexFault::Magic { .. }));
    assert_eq!(fault(&with(9, &[2])), IndexFault::Version { found: 2 });
    assert_eq!(fault(&with(17, &[9])), IndexFault::TypeCode { found: 9 });
    assert_eq!(fault(&with(17, &[0])), IndexFault::TypeCode { found: 0 });
    assert_eq!(
        fault(&with(34, &(-1i32).to_le_bytes())),
        IndexFault::NegativeLength { sequence: 0, length: -1 }
    );
    let pointer = IndexFault::Pointer { sequence: 1, found: 7, expected: 6 };
    assert_eq!(fault(&with(54, &7i64.to_le_bytes())), pointer);
    assert!(matches!(fault(&with(54, &(-6i64).to_le_bytes())), IndexFault::Pointer { found: -6, .. }));
    for (entry, border) in [(0, 1i64), (1, -1), (1, 4), (2, 2), (2, 4), (1, i64::MAX)] {
        let expected = IndexFault::Border { entry, found: border, sequences: 3 };
        assert_eq!(fault(&with(70 + 8 * entry as usize, &border.to_le_bytes())), expected);
    }
    assert_eq!(fault(&idx_bytes(8, &[], 2, &[], &[])), IndexFault::NoBorders);
}

#[test]
fn lying_counts_are_refused_before_anything_is_allocated() {
    for count in [0, 1, 2, 4, 1 << 32, 1 << 60, u64::MAX / 12, u64::MAX] {
        assert!(
            matches!(fault(&with(18, &count.to_le_bytes())), IndexFault::Length { .. }),
            "{count} sequences"
        );
        let borders = fault(&with(26, &count.to_le_bytes()));
        assert!(matches!(borders, IndexFault::Length { .. }), "{count} borders");
    }
    assert!(matches!(fault(&with(18, &[0xff; 16])), IndexFault::Length { .. }));
}

#[test]
fn a_truncated_index_is_refused_at_every_length() {
    let (idx, _) = golden(8);
    for length in 0..idx.len() {
        let fault = fault(&idx[..length]);
        assert!(
            matches!(fault, IndexFault::NoHeader { .. } | IndexFault::Length { .. }),
            "{length}: {fault}"
        );
    }
}

#[test]
fn a_bin_of_the_wrong_length_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (idx, bin) = golden(8);
    let longer = [&bin[..], &[0]].concat();
    for wrong in [&bin[..7], &[], &longer] {
        let error = Reader::open(&place(directory.path(), &idx, wrong)).unwrap_err();
        assert!(matches!(error, DataError::BinLength { expected: 8, .. }), "{error}");
        assert!(error.to_string().contains("some.tokens.bin"), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("nothing");
    assert!(Reader::open(&prefix).unwrap_err().to_string().contains("nothing.idx"));
    fs::write(directory.path().join("nothing.idx"), golden(8).0).unwrap();
    assert!(Reader::open(&prefix).unwrap_err().to_string().contains("nothing.bin"));
}

#[test]
fn a_token_beyond_the_vocabulary_is_named_by_file_document_and_position() {
    let directory = tempfile::tempdir().unwrap();
    let (idx, bin) = golden(8);
    let mut reader = Reader::open(&place(directory.path(), &idx, &bin)).unwrap();
    reader.limit_vocab(100);
    let error = reader.read(1, &mut [0; 3]).unwrap_err();
    let DataError::TokenId { document, position, ref id, vocab, .. } = error else { panic!("{error}") };
    assert_eq!((document, position, id.as_str(), vocab), (1, 0, "100", 100));
    assert!(error.to_string().contains("some.tokens.bin"));
}

#[test]
fn numbers_that_are_no_ids_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(u8, Vec<u8>); 8] = [
        (2, vec![0xff]),
        (3, (-2i16).to_le_bytes().into()),
        (4, i32::MIN.to_le_bytes().into()),
        (5, (1i64 << 32).to_le_bytes().into()),
        (6, 1.5f64.to_le_bytes().into()),
        (6, f64::NAN.to_le_bytes().into()),
        (7, (-1.0f32).to_le_bytes().into()),
        (7, f32::INFINITY.to_le_bytes().into()),
    ];
    for (code, number) in cases {
        let size = number.len();
        let bin = [vec![0; size], number].concat();
        let idx = idx_bytes(code, &[2], size as i64, &[0, 1], &[]);
        let error = Reader::open(&place(directory.path(), &idx, &bin)).unwrap().read_document(0).unwrap_err();
        assert!(matches!(error, DataError::TokenId { document: 0, position: 1, .. }), "{error}");
    }
}

#[test]
fn the_fuzz_corpus_is_replayed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/idx");
    let mut seen = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        fuzz_idx(&fs::read(entry.unwrap().path()).unwrap());
        seen += 1;
    }
    assert!(seen >= 10, "{seen} files");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_is_written_is_read(
        documents in prop::collection::vec(prop::collection::vec(prop::collection::vec(0u32..128, 0..40), 1..4), 0..20),
        code in 1u8..=8,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("p");
        let mut writer = Writer::create(&prefix, TokenType::from_code(code).unwrap(), None).unwrap();
        for document in &documents {
            for sequence in document {
                writer.push_sequence(sequence).unwrap();
            }
            writer.end_document();
        }
        writer.finish().unwrap();
        let reader = Reader::open(&prefix).unwrap();
        prop_assert_eq!(reader.documents(), documents.len() as u64);
        for (number, document) in documents.iter().enumerate() {
            prop_assert_eq!(reader.read_document(number as u64).unwrap(), document.concat());
        }
    }

    #[test]
    fn large_ids_and_long_documents_survive(tokens in prop::collection::vec(any::<u32>(), 5000..9000)) {
        let directory = tempfile::tempdir().unwrap();
        for kind in TokenType::ALL {
            let prefix = directory.path().join("p");
            let tokens: Vec<u32> = tokens.iter().map(|token| token % (kind.largest() + 1)).collect();
            let mut writer = Writer::create(&prefix, kind, None).unwrap();
            writer.push_document(&tokens).unwrap();
            writer.finish().unwrap();
            prop_assert_eq!(&Reader::open(&prefix).unwrap().read_document(0).unwrap(), &tokens);
        }
    }

    #[test]
    fn any_change_of_an_index_is_an_index_or_an_error(
        code in 1u8..=8,
        changes in prop::collection::vec((0usize..94, any::<u8>()), 1..6),
        length in 0usize..=94,
    ) {
        let (mut idx, _) = golden(code);
        for (position, byte) in changes {
            idx[position] = byte;
        }
        fuzz_idx(&idx);
        fuzz_idx(&idx[..length]);
    }
}
