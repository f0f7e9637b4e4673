//! The API's description, a file of the repository that is served as it is.

/// OpenAPI 3.1.
#[must_use]
pub const fn document() -> &'static str {
    include_str!("../openapi.json")
}

/// Whether requests to `path` bring a body.
pub(crate) fn takes_post(path: &str) -> bool {
    ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"].contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_description_names_every_path_by_its_method_and_all_references_lead_somewhere() {
        let description: Value = serde_json::from_str(document()).unwrap();
        let paths = description["paths"].as_object().unwrap();
        for (path, methods) in paths {
            let method = if takes_post(path) { "post" } else { "get" };
            assert_eq!(methods.as_object().unwrap().keys().collect::<Vec<_>>(), [method], "{path}");
        }
        assert_eq!(paths.len(), 10);
        let text = document();
        for reference in text.split("\"$ref\": \"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(description.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
