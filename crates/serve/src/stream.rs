//! Answers that come piece by piece: server-sent events, `data: {json}` and at last `data: [DONE]`.

use crate::assembly::Piece;
use crate::error::ApiError;
use crate::run::{Run, Usage};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

/// A comment is sent after so long without an event: intermediaries keep the line, and a client that has gone is
/// noticed.
const SILENCE: Duration = Duration::from_secs(10);

/// Makes chunks out of pieces.
pub(crate) trait Chunks: Send + 'static {
    /// Before anything else.
    fn first(&self, choices: usize) -> Vec<Value>;
    fn chunk(&self, choice: usize, piece: Piece) -> Vec<Value>;
    /// After everything else, if asked for.
    fn last(&self, usage: Usage) -> Option<Value>;
}

struct Events<C> {
    run: Option<Run>,
    chunks: C,
    ready: VecDeque<Bytes>,
}

fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            let run = self.run.as_mut()?;
            match tokio::time::timeout(SILENCE, run.next()).await {
                Err(_) => return Some(Bytes::from_static(b": still at work\n\n")),
                Ok(Ok(Some((choice, piece)))) => {
                    self.ready.extend(self.chunks.chunk(choice, piece).iter().map(data));
                }
                Ok(Ok(None)) => {
                    self.ready.extend(self.chunks.last(run.usage).as_ref().map(data));
                    self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                    self.run = None;
                }
                Ok(Err(error)) => {
                    // The status is sent already.
                    self.ready.push_back(data(&error.body()));
                    self.run = None;
                }
            }
        }
    }
}

pub(crate) fn respond(run: Run, chunks: impl Chunks) -> Response {
    let ready = chunks.first(run.choices()).iter().map(data).collect();
    let events = Events { run: Some(run), chunks, ready };
    let stream = stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(bytes), events))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(stream)).into_response()
}

/// The whole answer at once.
pub(crate) fn json(value: &Value) -> Result<Response, ApiError> {
    Ok(([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response())
}
