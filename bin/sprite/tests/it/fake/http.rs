//! HTTP/1.1, just enough, without limits.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    /// Empty for `POST …/exec`, which reads it as it comes.
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let headers = "Content-Type: application/json\r\n".to_owned();
        Self { status, headers, body: body.to_string().into_bytes() }
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads the next request.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut request = Request { method, target, headers, body: Vec::new() };
        let streams = request.method == "POST" && request.path().ends_with("/exec");
        if streams {
            return Some(request);
        }
        if request.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                request.body.extend(chunk);
            }
        } else if let Some(length) = request.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                self.fill().await?;
            }
            request.body = self.buffer.drain(..length).collect();
        }
        Some(request)
    }

    /// Reads the next chunk; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                break self.buffer.drain(..at + 2).collect::<Vec<_>>();
            }
            self.fill().await?;
        };
        let size = usize::from_str_radix(str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        while self.buffer.len() < size + 2 {
            self.fill().await?;
        }
        let mut data: Vec<u8> = self.buffer.drain(..size + 2).collect();
        data.truncate(size);
        (size > 0).then_some(data)
    }

    async fn fill(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    pub(crate) async fn write(&mut self, data: &[u8]) {
        // The client may be gone; that is its right.
        let _ = self.stream.write_all(data).await;
    }

    pub(crate) async fn answer(&mut self, answer: Answer) {
        let Answer { status, headers, body } = answer;
        let length = match status {
            204 => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let mut data = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n").into_bytes();
        data.extend(body);
        self.write(&data).await;
    }
}

pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
