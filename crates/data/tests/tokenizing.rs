//! From text files to tokens: every format, every kind of bad input, the same ids as the `tokenizers` crate.
#![allow(clippy::unwrap_used)]

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use triax_data::{
    BadDocuments, DataError, Reader, Reading, Split, TokenType, Tokenized, Tokenizer, TokenizerKind,
    sample_texts, tokenize,
};

const TEXT: &str = "It's the first day of the year. The cat sat on the mat, and the dog (who wasn't there) slept; \
    fn main() { println!(\"{}\", 12345); }  你好,世界。你好吗?  Größe über alles: naïve café — 3.14159\n\n\
    It'll rain in the evening, they said. We've seen the rain in the night, and the wind in the trees.\n";

static BPE: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train(TokenizerKind::Bpe, 400, std::iter::repeat_n(TEXT, 3)).unwrap());
static UNIGRAM: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::train(TokenizerKind::Unigram, 400, std::iter::repeat_n(TEXT, 3)).unwrap());

fn plain(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    let mut inner = tokenizers::Tokenizer::from_file(path).unwrap();
    inner.set_encode_special_tokens(true);
    inner
}

proptest! {
    #[test]
    fn any_text_comes_back(text in "(\\PC|[ \\r\\n\\t\0]|the |<\\|endoftext\\|>){0,80}") {
        for tokenizer in [&*BPE, &*UNIGRAM] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|&id| id as usize != 0 && (id as usize) < tokenizer.vocab()));
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
        }
    }

    #[test]
    fn ids_are_those_of_the_crate(texts in prop::collection::vec("([a-z ]|the|in |'ll|你好|\\PC|[ \\n]){0,120}", 1..4)) {
        static PLAIN: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| plain(&BPE));
        for text in &texts {
            // Words of up to a few hundred bytes take the path for long words.
            for text in [text.clone(), text.replace(|c: char| !c.is_alphabetic(), "")] {
                let expected = PLAIN.encode_fast(text.as_str(), false).unwrap();
prop_assert_eq!(BPE.encode(&text).unwrap(), expected.get_ids());
            }
        }
    }
}

#[test]
fn a_trained_tokenizer_is_the_one_loaded() {
    let directory = tempfile::tempdir().unwrap();
    for tokenizer in [&*BPE, &*UNIGRAM] {
        tokenizer.save(&directory.path().join("tokenizer.json")).unwrap();
        let loaded = Tokenizer::load(directory.path()).unwrap();
        assert_eq!(loaded.identity().hash, tokenizer.identity().hash);
        assert_eq!((loaded.vocab(), loaded.eod()), (tokenizer.vocab(), Some(0)));
        assert_eq!(loaded.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
        assert!(loaded.encode(TEXT).unwrap().len() < TEXT.len(), "pieces of several bytes are used");
    }
}

#[test]
fn training_finds_the_vocabulary_the_crate_finds() {
    use tokenizers::models::{TrainerWrapper, bpe::BPE as Model, bpe::BpeTrainer};
    let mut inner = plain(&BPE);
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(400)
        .special_tokens(vec![tokenizers::AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect())
        .build();
    inner.with_model(Model::default());
    inner.train(&mut TrainerWrapper::from(trainer), std::iter::repeat_n(TEXT, 3)).unwrap();
    assert_eq!(inner.get_vocab(true), plain(&BPE).get_vocab(true));
}

#[test]
fn impossible_tokenizers_are_refused() {
    let error = Tokenizer::train(TokenizerKind::Bpe, 256, ["a"].into_iter()).unwrap_err();
    assert!(error.to_string().contains("at least 257"), "{error}");
    let error = Tokenizer::from_json("x", b"{}".to_vec(), None).unwrap_err();
    assert!(error.to_string().contains("not a tokenizer.json"), "{error}");
    assert!(Tokenizer::load(Path::new("/nowhere")).is_err());
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn prefix(&self) -> PathBuf {
        self.0.path().join("out/tokens")
    }

    fn run(&self, inputs: &[PathBuf], reading: &Reading, threads: usize) -> Result<Tokenized, DataError> {
        tokenize(inputs, &BPE, &self.prefix(), reading, threads, |_| {})
    }

    /// Text of every document written, each checked to end with the end-of-document token.
    fn documents(&self) -> Vec<String> {
        let reader = Reader::open(&self.prefix()).unwrap();
        let text = |document| {
            let ids = reader.read_document(document).unwrap();
            assert_eq!(ids.last(), Some(&0));
            BPE.decode(&ids[..ids.len() - 1]).unwrap()
        };
        (0..reader.documents()).map(text).collect()
    }

    /// The error of a run, which leaves no file behind.
    fn refusal(&self, input: &Path) -> String {
        let error = self.run(&[input.to_owned()], &Reading::default(), 2).unwrap_err().to_string();
        let left = fs::read_dir(self.0.path().join("out")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{error}");
        assert!(error.contains(input.file_name().unwrap().to_str().unwrap()), "{error}");
        error
    }
}

#[test]
fn every_format_gives_its_documents_in_order() {
    let folder = Folder::new();
    let lines = "{\"text\": \"one\"}\n\n{\"x\": 1, \"text\": \"two\\nlines\"}\r\n{\"text\": \"\"}\n{\"text\": \"last\u{2028}\"}";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    let inputs = [
        folder.file("a.txt", "alpha"),
        folder.file("b.jsonl", lines),
        folder.file("c.jsonl.gz", gz.finish().unwrap()),
        folder.file("d.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap()),
        parquet_file(&folder, "e.parquet", &[Some("p"), Some("q")]),
        folder.file("LICENSE", "named files are text"),
    ];
    let result = folder.run(&inputs, &Reading::default(), 2).unwrap();
    let lines = ["one", "two\nlines", "last\u{2028}"];
    let expected = [&["alpha"][..], &lines, &lines, &lines, &["p", "q", "named files are text"]].concat();
    assert_eq!(folder.documents(), expected);
    assert_eq!((result.documents, result.empty, result.skipped), (13, 3, 0));
    let reader = Reader::open(&folder.prefix()).unwrap();
    assert_eq!((reader.token_type(), reader.tokens()), (TokenType::U16, result.tokens));
    assert_eq!(reader.identity(), Some(BPE.identity()));
}

#[test]
fn folders_are_walked_in_the_order_of_names() {
    let folder = Folder::new();
    for (name, text) in
        [("in/b.md", "2"), ("in/a/z.rs", "1"), ("in/c.txt", "3"), ("in/x.png", "-"), ("in/.git/h.txt", "-")]
    {
        folder.file(name, text);
    }
    let result = folder.run(&[folder.0.path().join("in")], &Reading::default(), 3).unwrap();
    assert_eq!((folder.documents().concat().as_str(), result.ignored_files), ("123", 2));
    let texts = sample_texts(&[folder.0.path().join("in")], &Reading::default(), 2).unwrap();
    assert_eq!(texts.len(), 2);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let folder = Folder::new();
    // Long enough to be cut into pieces, with documents of every size around it.
    let long = TEXT.repeat(3000);
    let lines: String =
        (0..3000).map(|n| format!("{{\"text\": \"{}{n}\"}}\n", "word ".repeat(n % 50))).collect();
    let inputs = [folder.file("a.jsonl", lines), folder.file("b.txt", &long), folder.file("c.txt", "end")];
    let outputs = [1, 2, 5].map(|threads| {
        folder.run(&inputs, &Reading::default(), threads).unwrap();
        [".bin", ".idx"].map(|ending| fs::read(folder.prefix().with_extension(&ending[1..])).unwrap())
    });
    assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2]);
    let reader = Reader::open(&folder.prefix()).unwrap();
    let ids = reader.read_document(3000).unwrap();
    assert_eq!(ids[..ids.len() - 1], BPE.encode(&long).unwrap());
}

#[test]
fn blank_lines_can_part_documents() {
    let folder = Folder::new();
    let input = folder.file("a.txt", "one\ntwo\n\n\nthree\n");
    folder.run(&[input], &Reading { split: Split::BlankLines, ..Reading::default() }, 1).unwrap();
    assert_eq!(folder.documents(), ["one\ntwo", "three"]);
}

#[test]
fn progress_reaches_the_end() {
    let folder = Folder::new();
    let input = folder.file("a.jsonl", "{\"text\": \"hello\"}\n".repeat(50_000));
    let mut seen = Vec::new();
    tokenize(&[input], &BPE, &folder.prefix(), &Reading::default(), 2, |now| seen.push(now.clone())).unwrap();
    assert!(seen.len() > 2 && seen.is_sorted_by_key(|now| now.input_bytes));
    let last = seen.last().unwrap();
    assert_eq!((last.documents, last.input_bytes), (50_000, last.input_bytes_total));
}

#[test]
fn bad_documents_are_refused_with_file_and_place() {
    let folder = Folder::new();
    let cases: [(&str, &[u8], &str); 5] = [
        ("json.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \n", "line 3: not JSON"),
        (
            "field.jsonl",
            b"{\"text\": \"a\"}\n{\"body\": \"b\"}\n",
            "line 2: no field \"text\"; its fields are [\"body\"]",
        ),
        ("bytes.jsonl", b"{\"text\": \"\xff\"}\n", "line 1: not UTF-8"),
        ("bytes.txt", b"abc\xff", "byte 3: not UTF-8"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00\x00", "line 1"),
    ];
    for (name, content, expected) in cases {
        let error = folder.refusal(&folder.file(name, content));
        assert!(error.contains(expected), "{error}");
    }
    let error = folder.refusal(&parquet_file(&folder, "null.parquet", &[Some("a"), None]));
    assert!(error.contains("row 2: the text is null"), "{error}");
    folder.refusal(&folder.file("broken.parquet", "PAR1 no"));
    folder.refusal(&folder.0.path().join("missing.txt"));
    folder.refusal(Path::new(folder.file("empty/x.png", "").parent().unwrap()));
}

#[test]
fn a_parquet_file_without_the_column_names_those_it_has() {
    let folder = Folder::new();
    let input = parquet_file(&folder, "a.parquet", &[Some("x")]);
    let reading = Reading { field: "content".into(), ..Reading::default() };
    let error = folder.run(std::slice::from_ref(&input), &reading, 1).unwrap_err().to_string();
    assert!(
        error.contains("no text column \"content\"; its columns are id (INT32), text (BYTE_ARRAY)"),
        "{error}"
    );
    let reading = Reading { field: "id".into(), ..Reading::default() };
    assert!(matches!(folder.run(&[input], &reading, 1), Err(DataError::Column { .. })));
}

#[test]
fn the_first_bad_line_is_reported_whatever_the_threads() {
    let folder = Folder::new();
    let good = "{\"text\": \"some words to fill the batches\"}\n";
    let mut lines = good.repeat(40_000);
    lines.insert_str(good.len() * 30_000, "bad\n");
    lines.push_str("worse\n");
    let input = folder.file("a.jsonl", lines);
    for threads in [1, 2, 4] {
        let error =
            folder.run(std::slice::from_ref(&input), &Reading::default(), threads).unwrap_err().to_string();
        assert!(error.contains("line 30001"), "{error}");
    }
}

#[test]
fn bad_lines_can_be_skipped_and_are_counted() {
    let folder = Folder::new();
    let input = folder.file("a.jsonl", "{\"text\": \"a\"}\nbad\n{}\n{\"text\": \"b\"}\n");
    let reading = Reading { bad: BadDocuments::Skip, ..Reading::default() };
    let result = folder.run(&[input], &reading, 2).unwrap();
    assert_eq!(folder.documents(), ["a", "b"]);
    assert_eq!(result.skipped, 2);
    assert!(result.first_skipped.unwrap().contains("line 2"));
}

#[test]
fn a_failed_run_leaves_the_older_pair_alone() {
    let folder = Folder::new();
    folder.run(&[folder.file("a.txt", "kept")], &Reading::default(), 1).unwrap();
    folder.run(&[folder.file("b.jsonl", "bad\n")], &Reading::default(), 1).unwrap_err();
    assert_eq!(folder.documents(), ["kept"]);
}

fn parquet_file(folder: &Folder, name: &str, texts: &[Option<&str>]) -> PathBuf {
    let path = folder.file(name, "");
    let schema = parse_message_type("message m { required int32 id; optional binary text (UTF8); }").unwrap();
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer =
        SerializedFileWriter::new(File::create(&path).unwrap(), Arc::new(schema), Arc::new(properties))
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&vec![7; texts.len()], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().flatten().map(|&text| text.into()).collect();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    path
}
