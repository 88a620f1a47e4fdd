//! Files of all sprites, in one directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::State;
use super::http::{Answer, Request};

pub(super) fn call(call: &str, request: &Request, state: &State) -> Answer {
    let query = request.query();
    let find = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let path = absolute(&find("path").unwrap(), &find("workingDir").unwrap_or("/".into()));
    let real = state.root.path().join(path.trim_start_matches('/'));
    match call {
        "list" => list(&path, &real),
        "read" => match fs::read(&real) {
            Ok(body) => Answer { status: 200, headers: String::new(), body },
            Err(_) => error(404, "ENOENT", "no such file or directory", &path),
        },
        "write" => {
            let parent = real.parent().unwrap();
            if find("mkdirParents").as_deref() == Some("true") {
                fs::create_dir_all(parent).unwrap();
            } else if !parent.is_dir() {
                return error(404, "ENOENT", "no such file or directory", &path);
            }
            if real.is_dir() {
                return error(400, "EISDIR", "is a directory", &path);
            }
            fs::write(&real, &request.body).unwrap();
            let mode = find("mode").unwrap_or("0644".into());
            let bits = u32::from_str_radix(&mode, 8).unwrap();
            fs::set_permissions(&real, fs::Permissions::from_mode(bits)).unwrap();
            let body = json!({ "path": path, "size": request.body.len(), "mode": mode });
            Answer::json(200, &body)
        }
        _ => error(400, "EINVAL", "invalid argument", &path),
    }
}

fn absolute(path: &str, working_dir: &str) -> String {
    let joined =
        if path.starts_with('/') { path.to_owned() } else { format!("{working_dir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn list(path: &str, real: &Path) -> Answer {
    let entries: Vec<Value> = if real.is_dir() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(real).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|child| entry(path, child, true)).collect()
    } else if real.exists() {
        vec![entry(path, real, false)]
    } else {
        return error(404, "ENOENT", "no such file or directory", path);
    };
    Answer::json(200, &json!({ "path": path, "count": entries.len(), "entries": entries }))
}

fn entry(path: &str, real: &Path, child: bool) -> Value {
    let name = real.file_name().unwrap().to_str().unwrap();
    let metadata = fs::metadata(real).unwrap();
    let own =
        if child { format!("{}/{name}", path.trim_end_matches('/')) } else { path.to_owned() };
    json!({
        "name": name, "path": own, "type": if metadata.is_dir() { "directory" } else { "file" },
        "size": metadata.len(), "mode": format!("{:04o}", metadata.permissions().mode() & 0o7777),
        "modTime": "2026-01-13T10:30:00Z", "isDir": metadata.is_dir(),
    })
}

fn error(status: u16, code: &str, text: &str, path: &str) -> Answer {
    Answer::json(status, &json!({ "error": text, "code": code, "path": path }))
}
