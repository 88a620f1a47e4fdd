//! `POST …/exec`: a command whose output is framed in the body of the answer.
//!
//! One frame is one chunk: clients take what arrives at once as one frame, also when it was
//! several chunks. So the body pauses between frames: the HTTP library then writes each of them
//! out, and the client has read it before the next one comes. The exit frame comes alone, after
//! a longer moment.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use http_body::Frame;
use sprite_api::exec::EXIT;
use sprite_link::session::Output;
use tokio::sync::{mpsc, watch};
use tokio::time::{Sleep, sleep};

use super::attachment::{Attachment, Event};
use super::machine::StartError;
use super::translate::{exit_byte, prefixed};

/// Largest frame, in bytes, the stream byte included.
const FRAME_MAX: usize = 8 * 1024;
/// Frames on their way to the client.
const QUEUE: usize = 64;
/// Pause after a frame. `fetch` in node joins chunks that it has not handed on yet, and with
/// them their stream bytes; measured there, this keeps all apart on an idle computer and 99 in
/// 100 on a busy one.
const FRAME_PAUSE: Duration = Duration::from_millis(5);
/// Pause before the exit frame, so that it travels alone.
const EXIT_PAUSE: Duration = Duration::from_millis(10);
/// Input kept here before the request's body is no longer read.
const INPUT_MAX: u64 = 1024 * 1024;
const KILLED: i32 = 128 + 9;

/// Whom the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Takes what arrives together as one frame.
    ByArrival,
    /// Takes every chunk as one frame, however they arrive.
    ByChunk,
}

/// Starts the answer; the command runs in a task of its own. `input` is the request's body if
/// it is wanted.
pub(crate) fn respond(
    attachment: Attachment,
    input: Option<Body>,
    reader: Reader,
) -> Response<Body> {
    let (frames, queue) = mpsc::channel(QUEUE);
    let (delivered_in, delivered) = watch::channel(0);
    let relay = Relay { attachment, frames, delivered };
    let relay = relay.run(input.map(Body::into_data_stream));
    tokio::spawn(tracing::Instrument::in_current_span(relay));
    let pause = match reader {
        Reader::ByArrival => FRAME_PAUSE,
        Reader::ByChunk => Duration::ZERO,
    };
    let body = FrameBody::new(queue, delivered_in, pause);
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A frame and the offset behind its last output byte.
struct Outgoing {
    bytes: Bytes,
    end: u64,
}

enum Step {
    Happened(Event),
    /// One frame of the pending output.
    Sent,
    Heard(Option<Bytes>),
    Delivered,
    ClientGone,
}

struct Relay {
    attachment: Attachment,
    frames: mpsc::Sender<Outgoing>,
    delivered: watch::Receiver<u64>,
}

impl Relay {
    async fn run(mut self, mut input: Option<BodyDataStream>) {
        let mut pending: Option<(Output, Bytes, u64)> = None;
        let code = loop {
            let may_listen = self.attachment.input_len() < INPUT_MAX;
            let step = tokio::select! {
                event = self.attachment.next(pending.is_none()) => Step::Happened(event),
                permit = self.frames.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => {
                        if let Some((output, bytes, end)) = &mut pending {
                            let part = bytes.split_to(bytes.len().min(FRAME_MAX - 1));
                            let end = *end - bytes.len() as u64;
                            permit.send(Outgoing { bytes: prefixed(*output, &part), end });
                        }
                        Step::Sent
                    }
                    Err(_) => Step::ClientGone,
                },
                chunk = next_chunk(&mut input), if input.is_some() && may_listen => {
                    Step::Heard(chunk)
                }
                Ok(()) = self.delivered.changed() => Step::Delivered,
                () = self.frames.closed() => Step::ClientGone,
            };
            match step {
                Step::Happened(Event::Output { output, bytes, end }) => {
                    pending = Some((output, bytes, end));
                }
                Step::Happened(Event::Exit(code)) => break code,
                Step::Happened(Event::Lost) => break KILLED,
                Step::Happened(Event::StartFailed(error)) => {
                    let (code, text) = match error {
                        StartError::Failed { exit_code, message } => (exit_code, message),
                        StartError::Refused(failure) => (1, failure.text().to_owned()),
                    };
                    for part in format!("{text}\n").as_bytes().chunks(FRAME_MAX - 1) {
                        send(&self.frames, prefixed(Output::Stderr, part)).await;
                    }
                    break i32::from(code);
                }
                Step::Happened(Event::Attached(_) | Event::Port(_) | Event::InputTaken) => {}
                Step::Happened(Event::Dropped) | Step::ClientGone => {
                    return self.attachment.leave().await;
                }
                Step::Sent => pending = pending.filter(|(_, bytes, _)| !bytes.is_empty()),
                Step::Heard(Some(bytes)) => self.attachment.push_input(bytes),
                Step::Heard(None) => {
                    input = None;
                    self.attachment.close_input();
                }
                Step::Delivered => {
                    let end = *self.delivered.borrow_and_update();
                    self.attachment.delivered(end);
                }
            }
        };
        // The exit frame travels alone: what is before it has to be gone.
        while self.frames.capacity() < QUEUE && self.delivered.changed().await.is_ok() {}
        sleep(EXIT_PAUSE).await;
        send(&self.frames, Bytes::from(vec![EXIT, exit_byte(code)])).await;
        drop(self.frames);
        self.attachment.leave().await;
    }
}

async fn send(frames: &mpsc::Sender<Outgoing>, bytes: Bytes) {
    // An error means that the client is gone, which the caller finds out anyway.
    let _ = frames.send(Outgoing { bytes, end: 0 }).await;
}

/// Returns `None` at the end, also of a body that breaks off.
async fn next_chunk(input: &mut Option<BodyDataStream>) -> Option<Bytes> {
    match input.as_mut()?.next().await {
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(_)) | None => None,
    }
}

struct FrameBody {
    queue: mpsc::Receiver<Outgoing>,
    delivered: watch::Sender<u64>,
    pause: Duration,
    /// Runs after a frame: the library writes it before it gets the next.
    pausing: Option<Pin<Box<Sleep>>>,
}

impl FrameBody {
    fn new(
        queue: mpsc::Receiver<Outgoing>,
        delivered: watch::Sender<u64>,
        pause: Duration,
    ) -> Self {
        Self { queue, delivered, pause, pausing: None }
    }
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pausing) = &mut self.pausing {
            ready!(pausing.as_mut().poll(context));
            self.pausing = None;
        }
        self.queue.poll_recv(context).map(|outgoing| {
            let Outgoing { bytes, end } = outgoing?;
            // Also without a pause the timer does not fire at once, but when it is next looked at.
            self.pausing = Some(Box::pin(sleep(self.pause)));
            self.delivered.send_modify(|delivered| *delivered = end.max(*delivered));
            Some(Ok(Frame::data(bytes)))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::Stream as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_body_pauses_after_every_frame() {
        let (frames, queue) = mpsc::channel(4);
        let (delivered_in, delivered) = watch::channel(0);
        let body = FrameBody::new(queue, delivered_in, FRAME_PAUSE);
        let mut body = Body::new(body).into_data_stream();
        for end in [3, 5] {
            frames.send(Outgoing { bytes: Bytes::from_static(b"x"), end }).await.unwrap();
        }
        let waker = futures::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut polls = Vec::new();
        for _ in 0..4 {
            polls.push(Pin::new(&mut body).poll_next(&mut context).is_ready());
            if polls.len() == 2 {
                tokio::time::advance(FRAME_PAUSE + Duration::from_millis(1)).await;
            }
        }
        assert_eq!(polls, [true, false, true, false]);
        assert_eq!(*delivered.borrow(), 5);
    }
}
