//! What is asked of other services over HTTP.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | questions | whoever calls | the loop | [`CallerSettings::waiting_max`] | [`Outcome::Busy`] |
//! | questions under way | the loop | answers, time-outs | [`CallerSettings::concurrency_max`] | questions wait |
//!
//! An answer has at most [`BODY_SIZE_MAX`] bytes and comes within the time-out, or it is none. Nothing of a question or an answer
//! is logged: both hold secrets.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::breaker::Breaker;

/// Bytes of an answer, at most.
pub const BODY_SIZE_MAX: usize = 256 * 1024;

/// Connections that are kept open for the next question.
const IDLE_CONNECTIONS_MAX: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two fetches of the same thing, at least: somebody may ask for one with every packet.
const REFRESH_MIN: Duration = Duration::from_secs(10);

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The thread from which others are asked. It ends when this is dropped.
#[derive(Debug)]
pub struct Outgoing {
    handle: Handle,
    http: Http,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The body of the answer, whose status was 200.
    Answered(Vec<u8>),
    /// Too many questions wait.
    Busy,
    /// The service does not answer, or says that something is wrong.
    Unavailable,
}

/// How a service is asked.
#[derive(Clone)]
pub struct CallerSettings {
    /// `https://…` or `http://…`.
    pub url: String,
    /// The value of the `Authorization` header.
    pub authorization: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions under way at the same time.
    pub concurrency_max: usize,
    /// Questions that wait for one of those to end.
    pub waiting_max: usize,
    /// Failures in a row after which the service is left alone.
    pub failures_max: u32,
    /// For how long.
    pub pause: Duration,
}

impl fmt::Debug for CallerSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CallerSettings").field("url", &self.url).finish_non_exhaustive()
    }
}

type Then = Box<dyn FnOnce(Outcome) + Send>;

struct Call {
    body: Vec<u8>,
    then: Then,
}

/// Asks one service, from any thread.
#[derive(Clone)]
pub struct Caller {
    line: mpsc::Sender<Call>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Caller")
    }
}

/// Asks for something to be fetched before its time. Nothing is fetched any more once it is dropped.
#[derive(Debug)]
pub struct Refresher {
    wanted: Arc<Notify>,
    task: AbortHandle,
}

impl Refresher {
    /// Soon: ten seconds after the last time, at the earliest.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outgoing {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is no thread, no event loop, or no authority that this system trusts.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let https =
            HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1();
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_timer(TokioTimer::new())
            .build(https.build());
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let thread =
            std::thread::Builder::new().name("midge-outgoing".into()).spawn(move || {
                _ = runtime.block_on(stopped);
                // A name server that does not answer holds nobody up.
                runtime.shutdown_background();
            })?;
        Ok(Self { handle, http, stop: Some(stop), thread: Some(thread) })
    }

    /// Makes ready to ask a service.
    ///
    /// # Errors
    /// A sentence when the address or the header is none.
    pub fn caller(&self, settings: CallerSettings) -> Result<Caller, &'static str> {
        let uri: Uri = settings.url.parse().map_err(|_| "this is no address")?;
        let authorization = settings
            .authorization
            .as_deref()
            .map(|value| HeaderValue::from_str(value).map_err(|_| "this can stand in no header"))
            .transpose()?;
        let breaker = Breaker::new(settings.failures_max, settings.pause);
        let breaker = Arc::new(Mutex::new(breaker));
        let (line, mut calls) = mpsc::channel::<Call>(settings.waiting_max.max(1));
        let (http, url) = (self.http.clone(), settings.url.clone());
        let under_way = Arc::new(Semaphore::new(settings.concurrency_max.max(1)));
        self.handle.spawn(async move {
            while let Some(Call { body, then }) = calls.recv().await {
                // Never closed.
                let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
                if !lock(&breaker).admits(Instant::now()) {
                    then(Outcome::Unavailable);
                    continue;
                }
                let request = request(Method::POST, &uri, body, authorization.clone());
                let (http, breaker, url) = (http.clone(), Arc::clone(&breaker), url.clone());
                tokio::spawn(async move {
                    let answer = ask(&http, request, settings.timeout).await;
                    let changed = lock(&breaker).note(answer.is_some(), Instant::now());
                    match (&answer, changed) {
                        (None, true) => tracing::warn!(
                            "{url} does not answer; it is left alone for {:?}",
                            settings.pause
                        ),
                        (Some(_), true) => tracing::info!("{url} answers again"),
                        _ => {}
                    }
                    drop(permit);
                    then(answer.map_or(Outcome::Unavailable, Outcome::Answered));
                });
            }
        });
        Ok(Caller { line })
    }

    /// Whether something can be fetched from there.
    ///
    /// # Errors
    /// A sentence when the address is none.
    pub fn check_address(url: &str) -> Result<(), &'static str> {
        url.parse::<Uri>().map(drop).map_err(|_| "this is no address")
    }

    /// Fetches a body now, then again and again until the refresher is dropped; `then` gets each one, or `None` where there
    /// was none.
    ///
    /// # Errors
    /// A sentence when the address is none.
    pub fn fetch(
        &self,
        url: &str,
        every: Duration,
        within: Duration,
        then: impl Fn(Option<Vec<u8>>) + Send + 'static,
    ) -> Result<Refresher, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "this is no address")?;
        let wanted = Arc::new(Notify::new());
        let again = Arc::clone(&wanted);
        let http = self.http.clone();
        let task = self.handle.spawn(async move {
            loop {
                let answer = ask(&http, request(Method::GET, &uri, Vec::new(), None), within).await;
                // What was not there is looked for sooner.
                let next = if answer.is_some() { every } else { every.min(REFRESH_MIN) };
                then(answer);
                tokio::time::sleep(REFRESH_MIN.min(next)).await;
                _ = timeout(next.saturating_sub(REFRESH_MIN), again.notified()).await;
            }
        });
        Ok(Refresher { wanted, task: task.abort_handle() })
    }
}

impl Caller {
    /// Asks. `then` is called once, on another thread or on this one, and must not block.
    pub fn call(&self, body: Vec<u8>, then: impl FnOnce(Outcome) + Send + 'static) {
        let call = Call { body, then: Box::new(then) };
        if let Err(error) = self.line.try_send(call) {
            let (mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call)) =
                error;
            (call.then)(Outcome::Busy);
        }
    }
}

fn lock(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(
    method: Method,
    uri: &Uri,
    body: Vec<u8>,
    authorization: Option<HeaderValue>,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(mut authorization) = authorization {
        authorization.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, authorization);
    }
    request
}

/// The body of an answer with status 200, in time and within its bound.
async fn ask(http: &Http, request: Request<Full<Bytes>>, within: Duration) -> Option<Vec<u8>> {
    let answered = async {
        let answer = http.request(request).await.ok()?;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(answer.into_body(), BODY_SIZE_MAX).collect().await.ok()?;
        Some(body.to_bytes().to_vec())
    };
    timeout(within, answered).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A service that answers each connection's first request with these bytes, or not at all, and counts them.
    fn service(answer: Option<&'static str>) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                counted.fetch_add(1, Ordering::Relaxed);
                match answer {
                    None => silent.push(stream),
                    Some(answer) => {
                        _ = stream.read(&mut [0; 4096]);
                        _ = stream.write_all(answer.as_bytes());
                    }
                }
            }
        });
        (address, count)
    }

    fn settings(address: SocketAddr) -> CallerSettings {
        CallerSettings {
            url: format!("http://{address}/auth"),
            authorization: Some("Bearer secret".into()),
            timeout: Duration::from_millis(200),
            concurrency_max: 2,
            waiting_max: 2,
            failures_max: 100,
            pause: Duration::from_secs(60),
        }
    }

    fn call(caller: &Caller) -> Outcome {
        let (sender, receiver) = channel();
        caller.call(b"{}".to_vec(), move |outcome| sender.send(outcome).unwrap());
        receiver.recv_timeout(PATIENCE).unwrap()
    }

    #[test]
    fn answers_come_back() {
        let outgoing = Outgoing::start().unwrap();
        for (answer, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
                Outcome::Answered(b"ok".to_vec()),
            ),
            (
                "HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                Outcome::Unavailable,
            ),
            ("nonsense\r\n\r\n", Outcome::Unavailable),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\nConnection: close\r\n\r\nx",
                Outcome::Unavailable,
            ),
        ] {
            let (address, _) = service(Some(answer));
            let caller = outgoing.caller(settings(address)).unwrap();
            assert_eq!(call(&caller), expected, "{answer}");
        }
    }

    #[test]
    fn a_service_that_is_silent_holds_up_nobody_for_long() {
        let outgoing = Outgoing::start().unwrap();
        let (address, count) = service(None);
        let caller =
            outgoing.caller(CallerSettings { failures_max: 2, ..settings(address) }).unwrap();
        let (sender, receiver) = channel();
        for _ in 0..50 {
            let sender = sender.clone();
            caller.call(Vec::new(), move |outcome| sender.send(outcome).unwrap());
        }
        let outcomes: Vec<_> = (0..50).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(outcomes.contains(&Outcome::Busy), "the line has a bound");
        assert!(outcomes.iter().all(|outcome| !matches!(outcome, Outcome::Answered(_))));
        // After two failures it is left alone.
        let asked = count.load(Ordering::Relaxed);
        assert_eq!(call(&caller), Outcome::Unavailable);
        assert_eq!(count.load(Ordering::Relaxed), asked);
        assert!(asked <= 4, "{asked}");
    }

    #[test]
    fn nobody_listens() {
        let outgoing = Outgoing::start().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let caller = outgoing.caller(settings(address)).unwrap();
        assert_eq!(call(&caller), Outcome::Unavailable);
        assert!(
            outgoing.caller(CallerSettings { url: "a b".into(), ..settings(address) }).is_err()
        );
    }

    #[test]
    fn a_secret_header_does_not_show_itself() {
        let settings = settings(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn bodies_are_fetched() {
        let outgoing = Outgoing::start().unwrap();
        let (address, _) = service(Some("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkeys"));
        let (sender, receiver) = channel();
        let every = Duration::from_secs(300);
        let refresher = outgoing
            .fetch(&format!("http://{address}/"), every, PATIENCE, move |body| {
                _ = sender.send(body);
            })
            .unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().as_deref(), Some(&b"keys"[..]));
        refresher.refresh();
        // What was waiting for its turn is given up, with whoever it would have told.
        drop(refresher);
        assert!(
            receiver
                .recv_timeout(PATIENCE)
                .is_err_and(|error| error == RecvTimeoutError::Disconnected)
        );
    }
}
