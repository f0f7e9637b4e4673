//! The recipes that come with the program, by name.

macro_rules! ready {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../recipes/curate/", $name, ".toml")))),+]
    };
}

/// Name and text. Their sources have no paths: `--set source.NAME.paths=…` gives them.
pub static READY: &[(&str, &str)] = ready!["crawl-en", "crawl-zh", "files", "mt-nlg"];
