//! What the server answers: the page, its data, metrics, health and load, all of it made by the watcher; and changes, where they are
//! allowed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::orders::{Failure, MAX_REQUEST_BYTES, Orders};
use super::published::Published;
use crate::exit_code::CommandErrorKind;

/// The most browsers that follow the looks at a time.
const MAX_FOLLOWERS: usize = 64;

/// After how long without the end of a look the watcher counts as dead. Far longer than the longest wait and a slow look.
const MAX_LOOK_AGE: Duration = Duration::from_secs(600);

/// Everything that the page uses comes from this server, and it is shown in no other page.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                              img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
struct Served {
    published: watch::Receiver<Arc<Published>>,
    followers: Arc<Semaphore>,
    orders: Orders,
}

impl Served {
    fn newest(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }
}

/// The routes over what a watcher publishes.
pub(crate) fn router(published: watch::Receiver<Arc<Published>>, orders: Orders) -> Router {
    let served = Served { published, followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)), orders };
    let file = |kind: &'static str, text: &'static str| get(move || async move { answer(kind, text) });
    Router::new()
        .route("/", file(HTML, include_str!("page/index.html")))
        .route("/page.css", file(CSS, include_str!("page/page.css")))
        .route("/page.js", file(JAVASCRIPT, include_str!("page/page.js")))
        .route("/change.js", file(JAVASCRIPT, include_str!("page/change.js")))
        .route("/picture.js", file(JAVASCRIPT, include_str!("page/picture.js")))
        .route("/api/state", get(state))
        .route("/api/past", get(past))
        .route("/api/looks", get(looks))
        .route("/api/changes", get(may_change).post(change).layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES)))
        .route("/lag", get(load))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .layer(map_response(with_headers))
        .with_state(served)
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn answer(kind: &'static str, body: impl Into<Bytes>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(kind))], body.into()).into_response()
}

fn refusal(text: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, answer(TEXT, text)).into_response()
}

/// A body of the newest look, or why there is none.
fn of_look(kind: &'static str, body: &Bytes, published: &Published) -> Response {
    if body.is_empty() {
        let fault = published.fault.as_deref().unwrap_or("no look has ended yet");
        return refusal(format!("{fault}\n"));
    }
    answer(kind, body.clone())
}

async fn state(State(served): State<Served>) -> Response {
    let published = served.newest();
    of_look(JSON, &published.state, &published)
}

async fn past(State(served): State<Served>) -> Response {
    let published = served.newest();
    of_look(JSON, &published.past, &published)
}

async fn load(State(served): State<Served>) -> Response {
    let published = served.newest();
    of_look(JSON, &published.load, &published)
}

async fn metrics(State(served): State<Served>) -> Response {
    answer(PROMETHEUS, served.newest().metrics.clone())
}

/// Whether the watcher runs. A table that cannot be read is no reason to restart it.
async fn healthz(State(served): State<Served>) -> Response {
    let published = served.newest();
    let is_dead = published.attempted_at.is_some_and(|at| at.elapsed() > MAX_LOOK_AGE)
        || served.published.has_changed().is_err();
    if is_dead { refusal("the watcher has ended; restart it\n".to_owned()) } else { answer(TEXT, "ok\n") }
}

/// Whether the newest look succeeded.
async fn readyz(State(served): State<Served>) -> Response {
    let published = served.newest();
    match &published.fault {
        Some(fault) => refusal(format!("{fault}\n")),
        None if published.state.is_empty() => refusal("no look has ended yet\n".to_owned()),
        None => answer(TEXT, "ready\n"),
    }
}

/// Whether changes are allowed, and need a token.
async fn may_change(State(served): State<Served>) -> Response {
    let guard = &served.orders.guard;
    let body = format!("{{\"isAllowed\":{},\"needsToken\":{}}}", guard.is_open(), guard.needs_token());
    answer(JSON, body)
}

/// Makes a plan, and carries it out if that is asked.
async fn change(State(served): State<Served>, headers: HeaderMap, body: Bytes) -> Response {
    let refused = |status: StatusCode, text: String| (status, answer(TEXT, text)).into_response();
    if let Err(why) = served.orders.guard.check(&headers) {
        return refused(StatusCode::FORBIDDEN, format!("{why}\n"));
    }
    match served.orders.take(body).await {
        Ok(given) => match serde_json::to_vec(&given) {
            Ok(body) => answer(JSON, body),
            Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        Err(Failure::Busy) => refused(
            StatusCode::CONFLICT,
            "another change is being made; wait for it, and look again\n".to_owned(),
        ),
        Err(Failure::Error(error)) => {
            let status = match error.kind() {
                CommandErrorKind::Usage => StatusCode::BAD_REQUEST,
                CommandErrorKind::Denied => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            refused(status, format!("{error}\n"))
        }
    }
}

/// An event for each look: its number, and why it failed. The page then asks for what it needs.
async fn looks(State(served): State<Served>) -> Response {
    let Ok(permit) = served.followers.try_acquire_owned() else {
        return refusal(format!("{MAX_FOLLOWERS} browsers follow already; close one\n"));
    };
    let mut published = served.published;
    // The newest look is the first event.
    published.mark_changed();
    Sse::new(events(published, permit)).keep_alive(KeepAlive::default()).into_response()
}

fn events(
    published: watch::Receiver<Arc<Published>>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold((published, permit), |(mut published, permit)| async move {
        published.changed().await.ok()?;
        let newest = published.borrow_and_update().clone();
        let event = match &newest.fault {
            None => Event::default().event("look").data(newest.looks.to_string()),
            Some(fault) => Event::default().event("fault").data(fault.replace(['\r', '\n'], " ")),
        };
        Some((Ok(event), (published, permit)))
    })
}

#[cfg(test)]
mod tests {
    /// The page asks no other host for anything.
    #[test]
    fn the_page_names_no_other_host() {
        let files = [
            include_str!("page/index.html"),
            include_str!("page/page.css"),
            include_str!("page/page.js"),
            include_str!("page/change.js"),
            include_str!("page/picture.js"),
        ];
        for file in files {
            // The namespace of SVG is a name, and no request.
            let file = file.replace("http://www.w3.org/2000/svg", "");
            assert!(!file.contains("http:") && !file.contains("https:") && !file.contains("src=\"//"));
        }
    }
}
