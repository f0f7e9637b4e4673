//! Keys of a recipe: `--set` laid over the file, and what was meant by a key that does not exist.

use toml::{Table, Value};

/// The candidate most like `written`, if there is any.
pub(crate) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by(|a, b| {
        let distance = |name: &str| 1.0 - strsim::jaro_winkler(written, name);
        distance(a).total_cmp(&distance(b))
    })
}

/// Serde's message in the words of a recipe: `unknown field` becomes the nearest known key below `place`.
pub(crate) fn explain(place: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', " ");
    let Some(rest) = message.strip_prefix("unknown field ") else { return message };
    let mut names = rest.split('`').skip(1).step_by(2);
    let written = names.next().unwrap_or_default();
    match nearest(written, names) {
        Some(nearest) => format!("unknown key `{place}{written}`; did you mean `{place}{nearest}`?"),
        None => format!("unknown key `{place}{written}`; there are no keys here"),
    }
}

/// Lays `argument`, an `a.b=value`, over the recipe. The value is TOML or else a bare string. An item of `source`
/// goes by its name, an item of `step` by its name or kind, both by number from 0 as well.
pub(crate) fn set(root: &mut Table, argument: &str) -> Result<(), String> {
    let (path, text) =
        argument.split_once('=').ok_or("an override needs a `=`, as in --set run.threads=2")?;
    let parts: Vec<&str> = path.trim().split('.').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err("an override needs a key before the `=`, as in --set run.threads=2".into());
    }
    let value = value(text.trim()).ok_or_else(|| format!("{:?} is not a TOML value", text.trim()))?;
    let (last, above) = parts.split_last().expect("split gives at least one part");
    let mut table = root;
    let mut rest = above;
    while let [part, after @ ..] = rest {
        rest = after;
        let entry = table.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        table = match entry {
            Value::Table(inner) => inner,
            Value::Array(items) => {
                let [which, after @ ..] = rest else {
                    return Err(format!("`{part}` is a list; say which item: {part}.0.{last}"));
                };
                rest = after;
                item(part, items, which)?
            }
            other => return Err(format!("`{part}` is {} and has no keys", other.type_str())),
        };
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

fn item<'a>(list: &str, items: &'a mut [Value], which: &str) -> Result<&'a mut Table, String> {
    let named = |value: &Value, key: &str| value.get(key).and_then(Value::as_str) == Some(which);
    let matching =
        |key: &str| -> Vec<usize> { (0..items.len()).filter(|&place| named(&items[place], key)).collect() };
    let places = match which.parse::<usize>() {
        Ok(place) if place < items.len() => vec![place],
        _ => {
            let by_name = matching("name");
            if by_name.is_empty() { matching("kind") } else { by_name }
        }
    };
    let names: Vec<String> = items
        .iter()
        .filter_map(|item| item.get("name").or(item.get("kind")).and_then(Value::as_str).map(str::to_owned))
        .collect();
    match places[..] {
        [place] => {
            items[place].as_table_mut().ok_or_else(|| format!("`{list}.{which}` is no table and has no keys"))
        }
        [] => Err(match nearest(which, names.iter().map(String::as_str)) {
            Some(nearest) => format!("there is no `{list}.{which}`; did you mean `{list}.{nearest}`?"),
            None => format!("there is no `{list}.{which}`; the list is empty"),
        }),
        [first, ..] => Err(format!("there are {} `{list}.{which}`; say which: {list}.{first}", places.len())),
    }
}

fn value(text: &str) -> Option<Value> {
    match format!("value = {text}").parse::<Table>() {
        Ok(mut table) => table.remove("value"),
        Err(_) if text.is_empty() || text.starts_with(['"', '\'', '[', '{']) || text.contains('\n') => None,
        Err(_) => Some(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Table {
        "[[step]]\nkind = \"a\"\n[[step]]\nkind = \"b\"\n[[step]]\nkind = \"b\"\nname = \"second\"\n[run]\nthreads = 1\n"
            .parse()
            .unwrap()
    }

    fn after(arguments: &[&str]) -> Result<Table, String> {
        let mut table = recipe();
        arguments.iter().try_for_each(|argument| set(&mut table, argument))?;
        Ok(table)
    }

    #[test]
    fn items_go_by_name_kind_and_number() {
        let table =
            after(&["step.a.x=1", "step.1.x=2", "step.second.x=[3]", "run.threads=4", "new.key=word"])
                .unwrap();
        let steps = table["step"].as_array().unwrap();
        assert_eq!(steps[0]["x"].as_integer(), Some(1));
        assert_eq!(steps[1]["x"].as_integer(), Some(2));
        assert_eq!(steps[2]["x"].as_array().unwrap().len(), 1);
        assert_eq!(table["run"]["threads"].as_integer(), Some(4));
        assert_eq!(table["new"]["key"].as_str(), Some("word"));
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        for (argument, part) in [
            ("run.threads", "needs a `=`"),
            ("=3", "needs a key"),
            ("step.kind=3", "say which item"),
            ("step.secnd.x=3", "`step.second`"),
            ("step.b.x=3", "there are 2 `step.b`"),
            ("run.threads.x=3", "has no keys"),
            ("run.threads=[", "not a TOML value"),
        ] {
            let message = after(&[argument]).unwrap_err();
            assert!(message.contains(part), "{argument}: {message}");
        }
    }
}
