//! The known name nearest to one that is unknown.

/// By edit distance with swaps; `known` is never empty.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    known.into_iter().min_by_key(distance).unwrap_or_default()
}
