//! Answers.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use sprite_store::Failure;

pub(crate) type Reply = Response<BoxBody<Bytes, io::Error>>;

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    code: &'static str,
    headers: HeaderMap,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: &'static str) -> Self {
        Self { status, code, headers: HeaderMap::new() }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).expect("a plain value"));
        self
    }

    pub(crate) fn reply(self, method: &Method) -> Reply {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>This is a \
             test server.</Message><RequestId>0</RequestId></Error>",
            self.code
        );
        // Answers to HEAD have no body.
        let body = if method == Method::HEAD { Bytes::new() } else { text.into() };
        let mut reply = with_body(self.status, body);
        reply.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
        reply.headers_mut().extend(self.headers);
        reply
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Taken => Self::new(412, "PreconditionFailed"),
            Failure::Missing => Self::new(404, "NoSuchKey"),
            Failure::OutOfRange { size_bytes } => {
                let size = size_bytes.map_or("*".to_owned(), |size| size.to_string());
                Self::new(416, "InvalidRange")
                    .with_header("content-range", &format!("bytes */{size}"))
            }
            Failure::TooLarge { .. } => Self::new(400, "EntityTooLarge"),
            Failure::Transient { .. } => Self::new(503, "ServiceUnavailable"),
            Failure::Denied { .. } => Self::new(403, "AccessDenied"),
            Failure::Refused { .. } => Self::new(400, "InvalidArgument"),
        }
    }
}

pub(crate) fn with_body(status: u16, body: Bytes) -> Reply {
    let body = Full::new(body).map_err(|never| match never {}).boxed();
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
    reply.headers_mut().insert("server", HeaderValue::from_static("sprite-s3test"));
    reply
}

/// A body that breaks off: the connection closes after `sent`, of which more was announced.
pub(crate) fn torn(mut reply: Reply, sent: Bytes, announced: usize) -> Reply {
    let broken = Err(io::Error::other("an injected fault"));
    let frames = futures::stream::iter([Ok(Frame::data(sent)), broken]);
    // Announced first, so that hyper cannot know better.
    reply.headers_mut().insert("content-length", HeaderValue::from(announced));
    reply.map(|_| BodyExt::boxed(StreamBody::new(frames)))
}
