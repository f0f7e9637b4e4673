//! Archives of every kind, whole, damaged and hostile.

use super::super::sources::example;
use super::*;
use std::io::Write;
use std::path::PathBuf;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn record(kind: &str, uri: &str, content_type: &str, block: &[u8]) -> Vec<u8> {
    let head = format!(
        "WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{uri}>\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n\
         WARC-Target-URI: {uri}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        block.len()
    );
    [head.as_bytes(), block, b"\r\n\r\n"].concat()
}

fn response(uri: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let block = [format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes(), body].concat();
    record("response", uri, "application/http; msgtype=response", &block)
}

fn page(number: usize) -> Vec<u8> {
    response(
        &format!("http://a/{number}"),
        "Content-Type: text/html; charset=UTF-8\r\n",
        format!("<p>page {number} with enough text to be told from another page, {}</p>", number * 7919)
            .as_bytes(),
    )
}

fn all(bytes: &[u8]) -> Vec<Record> {
    let limits = Limits { record_bytes: 100_000, ..Limits::default() };
    let mut found = Vec::new();
    records(
        &Cursor::new(bytes.to_vec()),
        &Part::example("a.warc"),
        &example("web"),
        &limits,
        &mut |record, _| {
            found.push(record);
            Ok(())
        },
    )
    .unwrap();
    found
}

/// The reason's label, or what a good record holds.
fn shown(record: &Record) -> String {
    match record {
        Record::Text(document) => format!("text {}", document.text.trim()),
        Record::Page { document, html, charset } => {
            let url = document.url.as_deref().unwrap_or_default();
            format!("page {url} {} {}", html.len(), charset.as_deref().unwrap_or("-"))
        }
        Record::Bad { reason, .. } => reason.label.to_string(),
    }
}

fn shown_all(bytes: &[u8]) -> Vec<String> {
    all(bytes).iter().map(shown).collect()
}

#[test]
fn gzip_zstd_and_plain_archives_hold_the_same() {
    let records = [
        record("warcinfo", "x", "application/warc-fields", b"software: test"),
        record("request", "http://a/1", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n"),
        page(1),
        record("conversion", "http://a/2", "text/plain", "naïve text".as_bytes()),
        record("resource", "http://a/3", "text/html", b"<p>resource</p>"),
    ];
    let expected = ["page http://a/1 65 UTF-8", "text naïve text", "page http://a/3 15 -"];
    let gz: Vec<u8> = records.iter().flat_map(|record| gzip(record)).collect();
    let zst: Vec<u8> = records.iter().flat_map(|record| zstd::bulk::compress(record, 3).unwrap()).collect();
    for bytes in [gz, zst, records.concat()] {
        assert_eq!(shown_all(&bytes), expected);
    }
}

#[test]
fn encodings_of_the_body_are_undone_and_wrong_ones_passed_over() {
    let html = b"<p>hello</p>";
    let chunked = b"5\r\n<p>he\r\n7\r\nllo</p>\r\n0\r\n\r\n";
    for (head, body) in [
        ("", html.to_vec()),
        ("Content-Encoding: gzip\r\n", gzip(html)),
        ("Transfer-Encoding: chunked\r\n", chunked.to_vec()),
        ("Content-Encoding: gzip\r\n", html.to_vec()),
        ("Transfer-Encoding: chunked\r\n", html.to_vec()),
        ("Content-Encoding: zstd\r\n", zstd::bulk::compress(html, 3).unwrap()),
    ] {
        let bytes = gzip(&response("http://a/", &format!("Content-Type: text/html\r\n{head}"), &body));
        let found = all(&bytes);
        let [Record::Page { html: found, .. }] = &found[..] else { panic!("{head}: {found:?}") };
        assert_eq!(found, html, "{head}");
    }
}

#[test]
fn what_is_no_page_says_why() {
    let not_found = [b"HTTP/1.1 404 Not Found\r\n\r\n".as_slice(), b"gone"].concat();
    let bytes = [
        record("response", "http://a/1", "application/http", &not_found),
        response("http://a/2", "Content-Type: image/png\r\n", b"\x89PNG"),
        response("http://a/3", "Content-Type: text/html\r\nContent-Encoding: rot13\r\n", b"<c>"),
        record("response", "http://a/4", "application/http", b"no status line"),
        response("http://a/5", "Content-Type: text/html\r\n", &vec![b'x'; 200_000]),
        response(
            "http://a/6",
            "Content-Type: text/html\r\nContent-Encoding: gzip\r\n",
            &gzip(&vec![b'x'; 200_000]),
        ),
        page(7),
    ]
    .concat();
    let found = shown_all(&bytes);
    let labels =
        ["http_status", "not_html", "content_encoding", "bad_http", "record_too_large", "record_too_large"];
    assert_eq!(found[..6], labels);
    assert!(found[6].starts_with("page http://a/7"));
}

#[test]
fn behind_damage_the_next_records_are_read() {
    let members: Vec<Vec<u8>> = (0..9).map(|number| gzip(&page(number))).collect();
    let start = |member: usize| members[..member].iter().map(Vec::len).sum::<usize>();
    let whole = members.concat();
    let mut damaged = whole.clone();
    // In the middle of the fourth member.
    let at = start(4) + members[4].len() / 2;
    damaged[at..at + 9].fill(0xaa);
    let found = shown_all(&damaged);
    assert_eq!(found.iter().filter(|shown| *shown == "damaged_record").count(), 1, "{found:?}");
    assert_eq!(found.iter().filter(|shown| shown.starts_with("page")).count(), 8, "{found:?}");
    // Cut off at the end.
    let found = shown_all(&whole[..whole.len() - 20]);
    assert_eq!(found.iter().filter(|shown| shown.starts_with("page")).count(), 8, "{found:?}");
    assert_eq!(found.last().unwrap(), "damaged_record");
}

#[test]
fn lengths_that_lie_cost_their_record() {
    let mut long = page(1);
    let text = String::from_utf8(long.clone()).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().to_owned();
    long = text.replace(&format!("Content-Length: {length}"), "Content-Length: 99999999999999").into_bytes();
    let bytes = [page(0), long, page(2)].concat();
    let found = shown_all(&bytes);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found.iter().filter(|shown| shown.starts_with("page")).count(), 2, "{found:?}");
    let negative = text.replace(&format!("Content-Length: {length}"), "Content-Length: -5").into_bytes();
    assert!(!shown_all(&[page(0), negative, page(2)].concat()).is_empty());
}

#[test]
fn a_bomb_is_one_counted_record() {
    let huge = record("response", "http://a/1", "application/http", &vec![0; 60_000_000]);
    let found = shown_all(&[gzip(&huge), gzip(&page(2))].concat());
    assert_eq!(found[0], "record_too_large");
    assert!(found.len() <= 2);
}

#[test]
fn real_archives_are_read_whole_and_damaged_ones_without_an_error() {
    let Some(folder) = std::env::var_os("TRIAX_TEST_DATA") else {
        eprintln!("skipped: TRIAX_TEST_DATA is not set");
        return;
    };
    let folder = PathBuf::from(folder).join("warc");
    let count = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let found = all(&bytes);
        let good = found.iter().filter(|record| !matches!(record, Record::Bad { .. })).count();
        (good, found.len())
    };
    // What warcio counts in them: responses of status 200 with HTML, and conversions.
    assert_eq!(count("whirlwind.warc.gz"), (1, 1));
    assert_eq!(count("whirlwind.warc.wet.gz"), (1, 1));
    let (good, all) = count("sample-0000.warc.gz");
    assert!(good > 10 && all >= good, "{good} of {all}");
    for entry in std::fs::read_dir(folder.join("damaged")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (_, all) = count(&format!("damaged/{name}"));
        assert!(all > 0, "{name} has records or a reason");
    }
}

/// Cut, and with bytes changed: never a panic, memory bounded.
#[test]
fn damaged_archives_never_panic() {
    let members: Vec<u8> = (0..3).flat_map(|number| gzip(&page(number))).collect();
    let plain = [page(0), page(1)].concat();
    let mut corpus = Vec::new();
    for base in [members, plain] {
        for seed in 0..200usize {
            let mut changed = base.clone();
            let place = (seed * 7919 + 13) % changed.len();
            match seed % 4 {
                0 => changed.truncate(place),
                1 => changed[place] ^= 1 << (seed % 8),
                2 => drop(changed.drain(place..(place + 17).min(changed.len()))),
                _ => changed.splice(place..place, [0xff; 9]).for_each(drop),
            }
            corpus.push(changed);
        }
    }
    corpus.iter().for_each(|bytes| fuzz_warc(bytes));
}
