//! What is where, who may ask, and how a body is read.

use crate::core::Core;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::template::{ChatTemplate, Template};
use crate::vocabulary::Vocabulary;
use crate::{chat, completions, openapi, stream, tokens};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// All that a request needs.
pub(crate) struct App {
    pub(crate) core: Arc<Core>,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) name: String,
    pub(crate) template: Option<Template>,
    pub(crate) chat_template: Option<ChatTemplate>,
    pub(crate) keys: Option<Keys>,
    pub(crate) limits: Limits,
    /// When the server started, in seconds since 1970.
    pub(crate) started: u64,
    pub(crate) requests: AtomicU64,
}

impl App {
    pub(crate) fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(self.started, |since| since.as_secs())
    }

    /// Names an answer: unique within the server's life, and hardly twice beyond it.
    pub(crate) fn id(&self, kind: &str) -> String {
        format!("{kind}-{:x}-{:x}", self.started, self.requests.fetch_add(1, Ordering::Relaxed))
    }
}

/// Paths that anyone may ask for: the page, the API's description, and whether the server is well.
const OPEN: [&str; 3] = ["/", "/health", "/openapi.json"];

const PAGE: &str = include_str!("../page/index.html");

/// The page loads nothing from elsewhere and talks to this server only.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

type Shared = State<Arc<App>>;

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(description))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(complete))
        .route("/v1/chat/completions", post(converse))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/tokenizer_info", get(tokenizer_info))
        .fallback(async |request: Request| ApiError::path(request.uri().path()).into_response())
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(Arc::clone(&app), around))
        .with_state(app)
}

/// Keys before everything, counting after it.
async fn around(State(app): Shared, request: Request, next: Next) -> Response {
    let response = if app.keys.is_some() && !OPEN.contains(&request.uri().path()) && !admitted(&app, &request)
    {
        ApiError::key().into_response()
    } else {
        next.run(request).await
    };
    let status = response.status().as_u16().to_string();
    app.core.metrics.responses.get_or_create(&[("status", status)]).inc();
    response
}

fn admitted(app: &App, request: &Request) -> bool {
    let header = request.headers().get(header::AUTHORIZATION);
    let key = header.and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '));
    let key = key.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
    match (&app.keys, key) {
        (Some(keys), Some(key)) => keys.admit(key.trim()),
        (Some(_), None) => false,
        (None, _) => true,
    }
}

async fn other_method(request: Request) -> Response {
    let path = request.uri().path();
    let allowed = if openapi::takes_post(path) { "POST" } else { "GET, HEAD" };
    let mut response = ApiError::method(request.method().as_str(), path).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    // The answer to HEAD has no body.
    if request.method() == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// The body as a JSON object's fields, within the limits of size and time.
async fn fields(app: &App, request: Request) -> Result<Fields, ApiError> {
    let content = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content.and_then(|content| content.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::media_type());
    }
    let most = app.limits.body;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
        return Err(ApiError::too_large(most));
    }
    let mut arriving = request.into_body().into_data_stream();
    let all = async {
        let mut bytes = Vec::new();
        while let Some(piece) = arriving.next().await {
            let piece = piece.map_err(|_| ApiError::invalid("the body broke off"))?;
            if bytes.len() + piece.len() > most {
                return Err(ApiError::too_large(most));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(app.limits.arrival, all).await.map_err(|_| ApiError::slow_body())??;
    Fields::parse(&bytes)
}

async fn complete(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields = fields(&app, request).await?;
    completions::answer(app, fields).await
}

async fn converse(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields = fields(&app, request).await?;
    chat::answer(app, fields).await
}

async fn tokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields = fields(&app, request).await?;
    tokens::tokenize(app, fields).await
}

async fn detokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields = fields(&app, request).await?;
    tokens::detokenize(app, fields).await
}

async fn tokenizer_info(State(app): Shared) -> Result<Response, ApiError> {
    tokens::info(&app)
}

async fn models(State(app): Shared) -> Result<Response, ApiError> {
    stream::json(&json!({"object": "list", "data": [{
        "id": app.name,
        "object": "model",
        "created": app.started,
        "owned_by": "triax",
        "max_model_len": app.core.shape.context,
    }]}))
}

async fn health(State(app): Shared) -> Result<Response, ApiError> {
    if app.core.is_ended() {
        return Err(ApiError::internal("the engine has stopped; see the server's log"));
    }
    if app.core.is_stopping() {
        return Err(ApiError::stopping());
    }
    stream::json(&json!({"status": "ok", "texts": app.core.jobs()}))
}

async fn metrics(State(app): Shared) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.core.metrics.text()).into_response()
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE).into_response()
}
