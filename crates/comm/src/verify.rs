//! The handshake: ranks that were started differently find out before anything is allocated.

use crate::{Cause, Collective, CommError, Group};

/// Compares facts (name, value: a hash, a version, a size) over all ranks; the size of the world is always
/// among them. An error names each fact that differs, the value most ranks have, and who has which other.
pub fn verify_same(comm: &mut dyn Collective, facts: &[(&str, &str)]) -> Result<(), CommError> {
    let group = Group::world(comm.world(), comm.rank());
    let world = comm.world().to_string();
    let mine: Vec<(&str, &str)> =
        std::iter::once(("world size", world.as_str())).chain(facts.iter().copied()).collect();
    let all: Vec<Vec<(String, String)>> = comm
        .gather_host(&group, &encode(&mine), "what ranks were started with")?
        .iter()
        .map(|bytes| decode(bytes))
        .collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in all.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let differences: Vec<String> = names.into_iter().filter_map(|name| difference(name, &all)).collect();
    if differences.is_empty() { Ok(()) } else { Err(Cause::Different { differences }.into()) }
}

/// What to say when not all ranks have the same value of a fact.
fn difference(name: &str, all: &[Vec<(String, String)>]) -> Option<String> {
    // Ranks by value, in order of first appearance.
    let mut values: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
    for (rank, facts) in all.iter().enumerate() {
        let value = facts.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        match values.iter_mut().find(|(other, _)| *other == value) {
            Some((_, ranks)) => ranks.push(rank),
            None => values.push((value, vec![rank])),
        }
    }
    if values.len() == 1 {
        return None;
    }
    // The first of the largest.
    let most = values.iter().map(|(_, ranks)| ranks.len()).max()?;
    let usual = values.iter().position(|(_, ranks)| ranks.len() == most)?;
    let (usual, _) = values.remove(usual);
    let others: Vec<String> = values
        .iter()
        .map(|(value, ranks)| {
            let plural = if ranks.len() > 1 { "s" } else { "" };
            let shown: Vec<String> = ranks.iter().take(8).map(ToString::to_string).collect();
            let more = if ranks.len() > 8 { format!(" and {} more", ranks.len() - 8) } else { String::new() };
            format!("rank{plural} {}{more} {}", shown.join(", "), value.unwrap_or("nothing"))
        })
        .collect();
    Some(format!(
        "{name}: {most} of {} have {}, {}",
        all.len(),
        usual.unwrap_or("nothing"),
        others.join(", ")
    ))
}

/// Every word with its length in front, so that any version can read any other's.
fn encode(facts: &[(&str, &str)]) -> Vec<u8> {
    let words = facts.iter().flat_map(|(name, value)| [name, value]);
    words.flat_map(|word| (word.len() as u32).to_le_bytes().into_iter().chain(word.bytes())).collect()
}

/// Reads as much as makes sense.
fn decode(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut word = || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (word, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        bytes = rest;
        Some(String::from_utf8_lossy(word).into_owned())
    };
    std::iter::from_fn(|| Some((word()?, word()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_way_through_bytes() {
        let facts = [("run file", "3f"), ("binary", ""), ("", "ü")];
        let decoded = decode(&encode(&facts));
        let shown: Vec<(&str, &str)> = decoded.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(shown, facts);
        assert_eq!(decode(&encode(&facts)[..9]), []);
    }

    #[test]
    fn the_minority_is_named() {
        let rank = |value: &str| vec![("run file".to_owned(), value.to_owned())];
        let all = [rank("aa"), rank("bb"), rank("aa"), vec![]];
        assert_eq!(
            difference("run file", &all).unwrap(),
            "run file: 2 of 4 have aa, rank 1 bb, rank 3 nothing"
        );
        assert_eq!(difference("run file", &all[..1]), None);
    }
}
