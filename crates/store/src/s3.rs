//! A bucket that speaks S3.
//!
//! A client of our own for the seven requests that we make. The libraries there are bring along
//! a second set of HTTP, checksum and Unicode crates and patience of their own, which for
//! create-only writes has to be in one place: a client that silently repeats one turns a success
//! whose answer was lost into "already exists". Hyper, rustls and `ring` are here already.
//!
//! # Invariants
//! - Each call is one request, sent at most once.
//! - The hash of every body is signed, so the store refuses what was damaged on its way.
//! - Of an error answer only the status and the code reach an error's text.

mod answer;
mod config;
mod credentials;
mod listing;
mod sign;
mod wire;
mod xml;

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sprite_types::Clock;

use crate::backend::{Attempt, Backend, Body, ObjectInfo, Page};
use crate::{Ambient, Failure, Key, Prefix, StoreSettings};
pub use config::{S3Config, S3ConfigError};
pub use credentials::{Credentials, CredentialsError};
#[cfg(any(test, feature = "test-util"))]
pub use sign::{Canonical, authorization, sha256_hex};

/// What S3 wants encoded in queries: all but letters, digits and four signs.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Names on one page of a listing, the most that S3 gives.
const PAGE_NAMES: &str = "1000";

/// A bucket, or a folder in one.
#[derive(Clone)]
pub struct S3 {
    inner: Arc<Inner>,
}

struct Inner {
    config: S3Config,
    credentials: credentials::Source,
    http: wire::Http,
    settings: StoreSettings,
    clock: Arc<dyn Clock>,
}

/// One request, before it is signed.
struct Call<'a> {
    method: Method,
    /// The object; `None` for the bucket.
    key: Option<&'a Key>,
    query: Vec<(&'static str, &'a str)>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl<'a> Call<'a> {
    fn object(method: Method, key: &'a Key) -> Self {
        let (query, headers, body) = (Vec::new(), Vec::new(), Bytes::new());
        Self { method, key: Some(key), query, headers, body }
    }
}

type Answer = http::Response<hyper::body::Incoming>;

impl S3 {
    /// Makes a store of a bucket; connects at the first request.
    ///
    /// # Errors
    /// If no credentials can be had.
    pub fn new(
        config: S3Config,
        env: &dyn Fn(&str) -> Option<String>,
        settings: StoreSettings,
        ambient: &Ambient,
    ) -> Result<Self, CredentialsError> {
        let (file, profile) = (config.credentials_file.as_deref(), config.profile.as_deref());
        let source = credentials::Source::find(file, profile, env)?;
        Ok(Self::with_source(config, source, settings, ambient))
    }

    /// Makes a store of a bucket with credentials that do not change.
    #[must_use]
    pub fn with_credentials(
        config: S3Config,
        credentials: Credentials,
        settings: StoreSettings,
        ambient: &Ambient,
    ) -> Self {
        Self::with_source(config, credentials::Source::fixed(credentials), settings, ambient)
    }

    fn with_source(
        config: S3Config,
        credentials: credentials::Source,
        settings: StoreSettings,
        ambient: &Ambient,
    ) -> Self {
        let (http, clock) = (wire::Http::new(), ambient.clock.clone());
        Self { inner: Arc::new(Inner { config, credentials, http, settings, clock }) }
    }

    /// Signs and sends one request; answers that are failures become some.
    async fn send(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let is_head = call.method == Method::HEAD;
        // Not the whole patience for an object of unknown size: silence is noticed soon.
        let limit = self.inner.settings.attempt_timeout(call.body.len() as u64);
        let credentials = self.inner.credentials.current();
        let request = self.request(call, &credentials)?;
        let answer = tokio::time::timeout(limit, self.inner.http.send(request)).await;
        let answer =
            answer.map_err(|_| Failure::transient(format!("no answer within {limit:?}")))?;
        let answer = answer.map_err(|error| Failure::transient(answer::connection(&error)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let refusal = answer::Refusal::read(answer, is_head).await;
        if refusal.blames_credentials() && self.inner.credentials.newest() != credentials {
            return Err(Failure::transient("the credentials were replaced meanwhile"));
        }
        Err(refusal.failure())
    }

    /// Reads a body in the time that its length deserves.
    async fn body(&self, answer: Answer, bytes_max: u64) -> Result<Body, Failure> {
        let announced = answer::announced(answer.headers()).unwrap_or(bytes_max);
        let limit = self.inner.settings.attempt_timeout(announced.min(bytes_max));
        let body = tokio::time::timeout(limit, answer::body(answer, bytes_max)).await;
        body.map_err(|_| Failure::transient(format!("no whole body within {limit:?}")))?
    }

    fn request(
        &self,
        call: Call<'_>,
        credentials: &Credentials,
    ) -> Result<http::Request<Full<Bytes>>, Failure> {
        let Inner { config, clock, .. } = &*self.inner;
        let (host, path) = config.host_and_path(call.key);
        let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
        let query: Vec<(String, String)> =
            call.query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
        let date = sign::amz_date(clock.now());
        let payload = sign::sha256_hex(&call.body);
        let mut headers = vec![
            ("host".to_owned(), host.clone()),
            ("x-amz-content-sha256".to_owned(), payload.clone()),
            ("x-amz-date".to_owned(), date.clone()),
        ];
        headers.extend(call.headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token".to_owned(), token.clone()));
        }
        let canonical = sign::Canonical {
            method: call.method.as_str(),
            path: &path,
            query: &query,
            headers: &headers,
            payload: &payload,
        };
        let signed = sign::authorization(&canonical, credentials, &config.region, &date);
        let pairs: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let target = if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) };
        let uri = Uri::builder().scheme(config.scheme()).authority(host).path_and_query(target);
        let invalid = |_| Failure::refused("the credentials or the store's URL cannot be sent");
        let mut request =
            http::Request::builder().method(call.method).uri(uri.build().map_err(invalid)?);
        for (name, value) in headers.into_iter().chain([("authorization".to_owned(), signed)]) {
            request = request.header(name, value);
        }
        request.body(Full::new(call.body)).map_err(invalid)
    }

    async fn put(&self, key: &Key, bytes: Bytes, create_only: bool) -> Result<(), Failure> {
        let mut call = Call::object(Method::PUT, key);
        call.body = bytes;
        if create_only {
            call.headers.push(("if-none-match", "*".to_owned()));
        }
        match self.send(call).await {
            Ok(answer) => {
                answer::drain(answer).await;
                Ok(())
            }
            // Only a condition can fail like this, and there is one only here.
            Err(Failure::Taken) if !create_only => {
                Err(Failure::refused("the store saw a condition that was not sent"))
            }
            // The bucket is there, or the code would have said otherwise.
            Err(Failure::Missing) => Err(Failure::transient("the store answered 404 to a write")),
            Err(failure) => Err(failure),
        }
    }

    async fn read_all(&self, key: &Key, bytes_max: u64) -> Result<Body, Failure> {
        let answer = self.send(Call::object(Method::GET, key)).await?;
        answer::plain(answer.headers())?;
        self.body(answer, bytes_max).await
    }

    async fn read_range(&self, key: &Key, start: u64, len: u64) -> Result<Body, Failure> {
        let Some(last) = start.checked_add(len - 1) else {
            return Err(Failure::OutOfRange { size_bytes: None });
        };
        let mut call = Call::object(Method::GET, key);
        call.headers.push(("range", format!("bytes={start}-{last}")));
        let answer = self.send(call).await?;
        answer::plain(answer.headers())?;
        let range = answer::content_range(answer.headers());
        match (answer.status(), range) {
            (StatusCode::PARTIAL_CONTENT, Some((first, end, size))) if first == start => {
                if end < last {
                    return Err(Failure::OutOfRange { size_bytes: size });
                }
                self.body(answer, len).await
            }
            _ => Err(Failure::refused("the store does not answer requests for a range")),
        }
    }

    async fn look(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let answer = self.send(Call::object(Method::HEAD, key)).await?;
        let header = |name: &str| text(answer.headers(), name);
        let size = header("content-length").and_then(|text| text.parse().ok());
        let modified = header("last-modified").and_then(answer::http_date);
        match (size, modified) {
            (Some(size), Some(modified)) => Ok(ObjectInfo { key: key.clone(), size, modified }),
            _ => Err(Failure::refused("the store's answer to HEAD has no length or time")),
        }
    }

    async fn page(
        &self,
        prefix: &Prefix,
        shallow: bool,
        next: Option<&str>,
    ) -> Result<Page, Failure> {
        let base = self.inner.config.prefix.as_str();
        let full = format!("{base}{prefix}");
        let mut query =
            vec![("list-type", "2"), ("max-keys", PAGE_NAMES), ("prefix", full.as_str())];
        if shallow {
            query.push(("delimiter", "/"));
        }
        if let Some(token) = next {
            query.push(("continuation-token", token));
        }
        let (headers, body) = (Vec::new(), Bytes::new());
        let call = Call { method: Method::GET, key: None, query, headers, body };
        let answer = match self.send(call).await {
            // Nothing below a folder is an empty page; this is no such bucket.
            Err(Failure::Missing) => return Err(Failure::refused("there is no such bucket")),
            other => other?,
        };
        answer::plain(answer.headers())?;
        let body = match self.body(answer, listing::PAGE_BYTES_MAX).await {
            Err(Failure::TooLarge { .. }) => {
                return Err(Failure::refused("a page of the listing is too long"));
            }
            other => other?,
        };
        if body.bytes.len() as u64 != body.announced {
            return Err(Failure::transient("the listing ended early"));
        }
        listing::read(&body.bytes, base, prefix)
    }

    async fn remove(&self, key: &Key) -> Result<(), Failure> {
        match self.send(Call::object(Method::DELETE, key)).await {
            Ok(answer) => {
                answer::drain(answer).await;
                Ok(())
            }
            Err(Failure::Missing) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Backend for S3 {
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        self.put(key, bytes, true).boxed()
    }

    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        self.put(key, bytes, false).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body> {
        self.read_all(key, bytes_max).boxed()
    }

    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body> {
        self.read_range(key, start, len).boxed()
    }

    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo> {
        self.look(key).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        shallow: bool,
        next: Option<&'a str>,
    ) -> Attempt<'a, Page> {
        self.page(prefix, shallow, next).boxed()
    }

    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()> {
        self.remove(key).boxed()
    }
}
