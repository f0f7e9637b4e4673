//! A document on its way through a recipe.

use serde::{Deserialize, Serialize};

/// What is known of a document besides its text, by name: language, score, date, encoding.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// One document. As a JSON object this is also a line of every file between steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Stable, and unique in a run: "source/file#record number".
    pub id: String,
    /// Name of the recipe's source it came from.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub text: String,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}
