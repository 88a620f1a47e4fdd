//! Sessions over plain HTTP: list, get, kill.

use http::Method;
use sprite_api::exec::{KillEvent, SessionEntry, SessionList};

use crate::client::{ANSWER_TIMEOUT, Call};
use crate::{Error, JsonLines, SpriteClient};

impl SpriteClient {
    /// Returns the live sessions.
    ///
    /// # Errors
    /// As every call.
    pub async fn sessions(&self) -> Result<Vec<SessionEntry>, Error> {
        let what = format!("list sessions of `{}`", self.name);
        let call = Call::new(what, Method::GET, self.target().segment("exec"));
        self.client.call_json::<SessionList>(call).await.map(|list| list.sessions)
    }

    /// Returns one session.
    ///
    /// # Errors
    /// As every call; status 404 if there is none.
    pub async fn session(&self, id: &str) -> Result<SessionEntry, Error> {
        let what = format!("get session {id}");
        let target = self.target().segment("exec").segment(id);
        self.client.call_json(Call::new(what, Method::GET, target)).await
    }

    /// Signals a session's process group and follows what happens. `timeout` is how long to
    /// wait before SIGKILL, as a duration text (`10s`).
    ///
    /// # Errors
    /// As every call; status 410 if it has ended.
    pub async fn kill_session(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<&str>,
    ) -> Result<JsonLines<KillEvent>, Error> {
        let what = format!("kill session {id}");
        let target = self
            .target()
            .segment("exec")
            .segment(id)
            .segment("kill")
            .query_opt("signal", signal)
            .query_opt("timeout", timeout);
        let call = Call::new(what.clone(), Method::POST, target).timeout(ANSWER_TIMEOUT);
        Ok(JsonLines::new(&what, self.client.call(call).await?.into_body()))
    }
}
