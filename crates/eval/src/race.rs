//! The official folder of RACE: `high/1234.txt`, one JSON object a file.
//!
//! ```text
//! { "id": "high1234.txt", "article": "…", "questions": ["…", …], "options": [["…" × 4], …], "answers": ["B", …] }
//! ```
//!
//! Every question is an item. It knows the article's earlier questions with their right answers (`earlier`, one
//! line each in `told`), its `number` from 0, and whether it is the article's `last`.

use crate::error::EvalError;
use crate::rows::{files_below, text};
use crate::template::Row;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Deserialize)]
struct Article {
    id: String,
    article: String,
    questions: Vec<String>,
    options: Vec<Vec<String>>,
    answers: Vec<String>,
}

pub(crate) fn read(folder: &Path, hasher: &mut blake3::Hasher) -> Result<Vec<Row>, EvalError> {
    let mut rows = Vec::new();
    for path in files_below(folder, "txt")? {
        let json = text(&path, hasher)?;
        let article: Article = serde_json::from_str(&json).map_err(|error| {
            EvalError::data(&path, error.line(), format!("not an article of RACE: {error}"))
        })?;
        rows.extend(questions(&article).map_err(|message| EvalError::data(&path, 0, message))?);
    }
    if rows.is_empty() {
        return Err(EvalError::data(folder, 0, "no .txt file in this folder or below it"));
    }
    Ok(rows)
}

fn questions(article: &Article) -> Result<Vec<Row>, String> {
    let count = article.questions.len();
    if article.options.len() != count || article.answers.len() != count {
        let (options, answers) = (article.options.len(), article.answers.len());
        return Err(format!("{count} questions, {options} lists of options, {answers} answers"));
    }
    let mut earlier: Vec<Value> = Vec::new();
    let mut rows = Vec::new();
    for (number, question) in article.questions.iter().enumerate() {
        let options = &article.options[number];
        let answer = &article.answers[number];
        let right = "ABCDEFGH"
            .find(answer.as_str())
            .filter(|&place| answer.len() == 1 && place < options.len())
            .ok_or_else(|| format!("question {number}: the answer `{answer}` names none of its options"))?;
        let row = json!({
            "id": format!("{}-{number}", article.id),
            "article": article.article,
            "question": question,
            "options": options,
            "answer": answer,
            "gold": right,
            "number": number,
            "last": number + 1 == count,
            "earlier": earlier,
        });
        let Value::Object(row) = row else { unreachable!("made as an object above") };
        rows.push(row);
        earlier.push(json!({ "told": told(question, &options[right]) }));
    }
    Ok(rows)
}

/// A question with its answer, as lm-evaluation-harness tells it: a blank at the end is filled in, other questions
/// are followed by the answer.
fn told(question: &str, answer: &str) -> String {
    match question.strip_suffix(" _  .") {
        Some(before) if before.ends_with(' ') => format!("{before}{answer}"),
        _ => format!("Question: {question}\nAnswer: {answer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn article() -> Article {
        Article {
            id: "high7.txt".to_owned(),
            article: "Ann has a cat.".to_owned(),
            questions: vec![
                "Ann has  _  .".to_owned(),
                "Who has a cat?".to_owned(),
                "The cat  _   milk.".to_owned(),
            ],
            options: vec![
                ["a cat", "a dog", "a cow", "no pet"].map(str::to_owned).to_vec(),
                ["Bob", "Ann", "Eve", "Joe"].map(str::to_owned).to_vec(),
                ["hates", "sells", "makes", "likes"].map(str::to_owned).to_vec(),
            ],
            answers: ["A", "B", "D"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn every_question_is_an_item_that_knows_the_earlier_ones() {
        let rows = questions(&article()).unwrap();
        assert_eq!(rows.iter().map(|row| row["gold"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(rows.iter().map(|row| row["last"] == true).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(rows[2]["earlier"][0]["told"], "Ann has a cat");
        assert_eq!(rows[2]["earlier"][1]["told"], "Question: Who has a cat?\nAnswer: Ann");
        assert_eq!(rows[0]["earlier"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn only_a_blank_at_the_end_is_filled_in() {
        assert_eq!(told("Tom drinks  _  .", "milk."), "Tom drinks milk.");
        assert_eq!(told("The cat  _   milk.", "likes"), "Question: The cat  _   milk.\nAnswer: likes");
    }

    #[test]
    fn lists_of_different_length_and_answers_beyond_the_options_are_refused() {
        let mut wrong = article();
        wrong.answers[1] = "E".to_owned();
        assert!(questions(&wrong).unwrap_err().contains("`E` names none"));
        wrong.answers.pop();
        assert!(questions(&wrong).unwrap_err().contains("2 answers"));
    }
}
