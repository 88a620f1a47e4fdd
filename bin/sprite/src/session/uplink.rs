//! What goes to the server, in a task of its own: input waits for the network there, while
//! control messages overtake it.

use bytes::Bytes;
use sprite_client::Error;
use sprite_client::exec::{SessionInput, TerminalSize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Input for the command.
pub(super) enum Input {
    Data(Bytes),
    End,
}

/// Anything else.
pub(super) enum Control {
    Resize(TerminalSize),
    Signal(&'static str),
    Ping,
}

/// Sends to the server. The task ends when this is dropped and all is sent.
pub(super) struct Uplink {
    pub(super) input: mpsc::Sender<Input>,
    control: mpsc::Sender<Control>,
    task: JoinHandle<SessionInput>,
}

impl Uplink {
    pub(super) fn start(session: SessionInput) -> Self {
        let (input, input_queue) = mpsc::channel(2);
        let (control, control_queue) = mpsc::channel(32);
        let task = tokio::spawn(forward(session, input_queue, control_queue));
        Self { input, control, task }
    }

    /// Sends a control message if there is room; when the network is stuck there is none.
    pub(super) fn control(&self, message: Control) {
        let _ = self.control.try_send(message);
    }

    /// Sends what is queued, then closes the socket.
    pub(super) async fn close(self) {
        let Self { input, control, task } = self;
        drop((input, control));
        if let Ok(mut session) = task.await {
            // A broken connection is closed already.
            let _ = session.close().await;
        }
    }
}

async fn forward(
    mut session: SessionInput,
    mut input: mpsc::Receiver<Input>,
    mut control: mpsc::Receiver<Control>,
) -> SessionInput {
    loop {
        let sent = tokio::select! {
            biased;
            Some(message) = control.recv() => send_control(&mut session, message).await,
            Some(message) = input.recv() => match message {
                Input::Data(data) if data.is_empty() => Ok(()),
                Input::Data(data) => session.stdin(data).await,
                Input::End => session.end_stdin().await,
            },
            else => return session,
        };
        if let Err(error) = sent {
            // The reading half tells the user.
            tracing::debug!(error = %error, "sending to the session failed");
            return session;
        }
    }
}

async fn send_control(session: &mut SessionInput, message: Control) -> Result<(), Error> {
    match message {
        Control::Resize(size) => session.resize(size).await,
        Control::Signal(name) => session.signal(name).await,
        Control::Ping => session.ping().await,
    }
}
