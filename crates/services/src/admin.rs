//! The HTTP server: `/metrics`, `/health`, `/health/live`, `/health/ready`.
//!
//! # What happens when there is too much
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections | [`CONNECTIONS_MAX`] | wait in the kernel's backlog of [`BACKLOG`], then their SYN is dropped |
//! | new connections a second | [`CONNECTIONS_PER_SECOND_MAX`] | the same |
//! | requests a second | [`REQUESTS_PER_SECOND_MAX`], all connections together | wait, each on its connection |
//! | head of a request | [`REQUEST_HEAD_BYTES_MAX`], [`HEADERS_MAX`] headers | 431, closed |
//! | body of a request | none | 413, closed |
//! | time until a head is complete, idle time of a connection | [`HEADER_TIMEOUT`] | closed |
//! | life of a connection | [`CONNECTION_TIMEOUT`] | closed after the answer that is under way, or [`HEADER_TIMEOUT`] later |

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use midge_metrics::{Instance, Reading};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::ailments::Ailments;
use crate::exposition::{Exposition, ListenerCounter, ListenerLabels};
use crate::process::Process;
use crate::pulse::Pulse;
use crate::standing::{Stage, Standing};
use crate::throttle::Throttle;

/// Connections at the same time.
pub const CONNECTIONS_MAX: usize = 32;

/// New connections a second, after a burst of as many.
pub const CONNECTIONS_PER_SECOND_MAX: u32 = 100;

/// Requests a second, all connections together, after a burst of as many. Several Prometheus servers and several load
/// balancers ask less.
pub const REQUESTS_PER_SECOND_MAX: u32 = 50;

/// Bytes of a request line and its headers.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long a request may take to arrive, and a connection may be idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

const HEADERS_MAX: usize = 64;
const BACKLOG: i32 = 128;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Lower than the shards' threads, so that they come first where they share a core.
const NICE: i32 = 19;

/// What the endpoint shows from its start on.
#[derive(Debug)]
pub struct View {
    /// How far the broker has come.
    pub standing: Standing,
    /// What a broker does that does not serve yet.
    pub starting: Starting,
    /// The program's version.
    pub version: &'static str,
    /// Its listeners, for whoever looks them up by label.
    pub listeners: ListenerLabels,
    /// What has come by each of them.
    pub counter: ListenerCounter,
}

/// Says in a few words what a broker does that does not serve yet: `starting`, say, or how much it has read.
#[derive(Clone)]
pub struct Starting(pub Arc<dyn Fn() -> String + Send + Sync>);

impl fmt::Debug for Starting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Starting(..)")
    }
}

impl Default for Starting {
    /// `starting`.
    fn default() -> Self {
        Self(Arc::new(|| "starting".to_owned()))
    }
}

/// The running services. They end when this is dropped.
#[derive(Debug)]
pub struct Services {
    shown: Arc<Shown>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Services {
    /// The shards run: from now on their statistics pages are shown, or why there are none (one sentence), and what was
    /// found damaged in the data directory (each place one sentence; `/health` lists it). Once.
    pub fn show(&self, instance: Result<Instance, String>, damage: Vec<String>) {
        self.shown.show(instance, damage);
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // Its other end is what the server waits for.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Starts the admin endpoint on a listening socket, on a thread of its own. Until [`Services::show`] it tells that the
/// broker starts.
///
/// # Errors
/// When the thread or its event loop cannot be had.
pub fn start(listener: TcpListener, view: View) -> io::Result<Services> {
    // A second call changes the backlog, and that of the standard library is far above what anybody needs here.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = Arc::new(Shown::new(view));
    let served = Arc::clone(&shown);
    let run = move || {
        // It is a wish: without the right to it, or in a sandbox, the endpoint works all the same.
        _ = rustix::process::setpriority_process(None, NICE);
        runtime.block_on(async {
            // Registers with the event loop that has just been made, and fails only without one.
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            tokio::select! {
                () = serve(listener, served) => {}
                _ = stopped => {}
            }
        });
        // Connections that are still open end with the runtime.
    };
    let thread = std::thread::Builder::new().name("midge-services".into()).spawn(run)?;
    Ok(Services { shown, stop: Some(stop), thread: Some(thread) })
}

async fn serve(listener: tokio::net::TcpListener, shown: Arc<Shown>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let throttle = Throttle::new(CONNECTIONS_PER_SECOND_MAX);
    let router = router(Arc::clone(&shown));
    loop {
        sleep(throttle.turn(shown.now())).await;
        // Never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    talk(stream, router).await;
                    drop(permit);
                });
            }
            // No descriptor left, or a peer that is gone already: the next one may do better.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn talk(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(REQUEST_HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // What goes wrong with a connection is its peer's affair.
    if timeout(CONNECTION_TIMEOUT, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        _ = timeout(HEADER_TIMEOUT, connection).await;
    }
}

fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .fallback(no_such_page)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&shown), admit))
        .with_state(shown)
}

/// What the answers are made from.
#[derive(Debug)]
struct Shown {
    view: View,
    /// Empty until the shards run.
    found: OnceLock<Found>,
    throttle: Throttle,
    zero: Instant,
}

/// What is known once the shards run.
#[derive(Debug)]
struct Found {
    source: Result<Source, String>,
    damage: Vec<String>,
}

#[derive(Debug)]
struct Source {
    instance: Instance,
    exposition: Exposition,
    pulse: Mutex<Pulse>,
}

impl Shown {
    fn new(view: View) -> Self {
        let throttle = Throttle::new(REQUESTS_PER_SECOND_MAX);
        Self { view, found: OnceLock::new(), throttle, zero: Instant::now() }
    }

    fn show(&self, instance: Result<Instance, String>, damage: Vec<String>) {
        let View { version, listeners, counter, .. } = &self.view;
        let (listeners, counter) = (Arc::clone(listeners), counter.clone());
        let source = instance.map(|instance| Source {
            exposition: Exposition::new(version, instance.header(), listeners, counter),
            pulse: Mutex::new(Pulse::default()),
            instance,
        });
        // A second time is ignored: whoever reads has the first.
        _ = self.found.set(Found { source, damage });
    }

    fn stage(&self) -> Stage {
        self.view.standing.stage()
    }

    /// What a broker does that does not serve yet.
    fn starting(&self) -> String {
        (self.view.starting.0)()
    }

    /// Since the endpoint's start.
    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    /// Why the shards are not all well, if they are not; and what ails the durable logs. Without pages nobody can tell.
    fn trouble(&self) -> (Option<String>, Ailments) {
        let Some(Found { source: Ok(source), .. }) = self.found.get() else {
            return (None, Ailments::default());
        };
        match source.instance.read() {
            Ok(reading) => {
                let silent = source.silent(&reading, self.now());
                let trouble = (!silent.is_empty()).then(|| stuck(&silent));
                (trouble, Ailments::of(&reading))
            }
            Err(error) => (Some(error.to_string()), Ailments::default()),
        }
    }

    /// Why new clients should not be sent here, if they should not, one sentence a line; and what else ails it.
    fn readiness(&self) -> (Vec<String>, Ailments) {
        let (trouble, ailments) = self.trouble();
        let reasons = match self.stage() {
            Stage::Starting => vec![self.starting()],
            Stage::Draining => vec!["draining".to_owned()],
            Stage::Serving => trouble.into_iter().chain(ailments.acute.iter().cloned()).collect(),
        };
        (reasons, ailments)
    }
}

impl Source {
    fn silent(&self, reading: &Reading, now: Duration) -> Vec<usize> {
        // Nothing panics while it is held.
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).silent_shards(reading, now)
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let source = match shown.found.get().map(|found| &found.source) {
        Some(Ok(source)) => source,
        Some(Err(reason)) => return unavailable(format!("there are no statistics: {reason}")),
        None => return unavailable(format!("there are no statistics yet: {}", shown.starting())),
    };
    let reading = match source.instance.read() {
        Ok(reading) => reading,
        Err(error) => return unavailable(error.to_string()),
    };
    let silent = source.silent(&reading, shown.now());
    let process = Process::read();
    let well = silent.is_empty() && Ailments::of(&reading).acute.is_empty();
    let ready = shown.stage() == Stage::Serving && well;
    let text = source.exposition.render(&reading, ready, &process, SystemTime::now());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// How it is: `healthy`, `degraded` when something is lost or not acknowledged, or why it does not serve; and what there
/// is to say about it, a line each. 503 when new clients should go elsewhere.
async fn health(State(shown): State<Arc<Shown>>) -> Response {
    let (reasons, ailments) = shown.readiness();
    let acute = ailments.acute.is_empty();
    let mut text = match reasons.first() {
        Some(reason) if acute => format!("{reason}\n"),
        None if ailments.is_empty() => "healthy\n".to_owned(),
        _ => "degraded\n".to_owned(),
    };
    let damage = match shown.found.get() {
        Some(found) if !ailments.lasting.is_empty() => &found.damage[..],
        _ => &[],
    };
    for sentence in reasons.iter().skip(usize::from(acute)).chain(&ailments.lasting).chain(damage) {
        text += sentence;
        text.push('\n');
    }
    if reasons.is_empty() {
        return text.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Whether the process should be left alone (200) or restarted (503). A new one would find the same disk.
async fn live(State(shown): State<Arc<Shown>>) -> Response {
    match shown.trouble().0 {
        None => "live\n".into_response(),
        Some(trouble) => unavailable(trouble),
    }
}

/// Whether new clients should be sent here (200) or elsewhere (503).
async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    match shown.readiness().0.as_slice() {
        [] => "ready\n".into_response(),
        reasons => unavailable(reasons.join("\n")),
    }
}

fn stuck(silent: &[usize]) -> String {
    let shards: Vec<String> = silent.iter().map(ToString::to_string).collect();
    format!("no sign of life from shard {}", shards.join(", "))
}

fn unavailable(sentence: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, sentence + "\n").into_response()
}

async fn no_such_page() -> Response {
    let sentence = "no such page; there are /metrics, /health, /health/live and /health/ready\n";
    (StatusCode::NOT_FOUND, sentence).into_response()
}

async fn wrong_method() -> Response {
    let sentence = "nothing can be changed here; ask with GET or HEAD\n";
    (StatusCode::METHOD_NOT_ALLOWED, sentence).into_response()
}

/// Every request waits for its turn, and none has a body.
async fn admit(State(shown): State<Arc<Shown>>, request: Request, next: Next) -> Response {
    sleep(shown.throttle.turn(shown.now())).await;
    let headers = request.headers();
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if empty && !headers.contains_key(header::TRANSFER_ENCODING) {
        return next.run(request).await;
    }
    let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
    let sentence = "a request here has no body\n";
    (StatusCode::PAYLOAD_TOO_LARGE, close, sentence).into_response()
}
