//! Filesystem calls over HTTP, on a folder of this host.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::guest::{TestGuest, guest};

struct Fs {
    guest: TestGuest,
    home: PathBuf,
}

fn fs() -> Fs {
    let guest = guest();
    let home = guest.home.path().canonicalize().unwrap();
    Fs { guest, home }
}

impl Fs {
    fn path(&self, path: &str) -> String {
        self.home.join(path).to_string_lossy().into_owned()
    }

    fn put(&self, path: &str, content: &str) {
        std::fs::write(self.home.join(path), content).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.home.join(path)).unwrap()
    }

    /// Makes a call with a query; `workingDir` is the home.
    async fn query(&self, method: Method, call: &str, query: &str, body: &str) -> (u16, Value) {
        let home = self.home.display();
        let path = format!("/v1/fs/{call}?workingDir={home}&{query}");
        let (status, body) = self.guest.json(method, &path, body.to_owned()).await;
        (status.as_u16(), body)
    }

    async fn post(&self, call: &str, mut body: Value) -> (u16, Value) {
        body["workingDir"] = json!(self.home);
        let path = format!("/v1/fs/{call}");
        let (status, body) = self.guest.json(Method::POST, &path, body.to_string()).await;
        (status.as_u16(), body)
    }

    async fn read(&self, query: &str, range: Option<&str>) -> (u16, String, Bytes) {
        let path = format!("/v1/fs/read?workingDir={}&{query}", self.home.display());
        let mut request = Request::get(path).header("host", "guest");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let response = self.guest.send(request.body(Full::default()).unwrap()).await;
        let status = response.status().as_u16();
        let range = response.headers().get("content-range");
        let range = range.map_or("", |range| range.to_str().unwrap()).to_owned();
        (status, range, response.into_body().collect().await.unwrap().to_bytes())
    }
}

fn assert_error(answer: &(u16, Value), status: u16, code: &str, text: &str) {
    assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)), "{answer:?}");
    assert!(answer.1["error"].as_str().unwrap().contains(text), "{answer:?}");
    assert!(answer.1["path"].is_string(), "{answer:?}");
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let fs = fs();
    let (status, answer) = fs.query(Method::PUT, "write", "path=a.txt", "hello").await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"path": fs.path("a.txt"), "size": 5, "mode": "0644"}));
    assert_eq!(fs.read("path=./x/../a.txt", None).await, (200, String::new(), "hello".into()));
    fs.query(Method::PUT, "write", "path=a.txt&mode=755", "longer than before").await;
    assert_eq!(fs.get("a.txt"), "longer than before");
    let mode = fs.home.join("a.txt").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let names: Vec<_> = std::fs::read_dir(&fs.home).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file stays");
}

#[tokio::test]
async fn ranges_follow_the_contract() {
    let fs = fs();
    fs.put("f", "0123456789");
    fs.put("empty", "");
    let part = |range: &str, text: &str| (206, range.to_owned(), Bytes::from(text.to_owned()));
    for (query, header, expected) in [
        ("path=f", Some("bytes=2-4"), part("bytes 2-4/10", "234")),
        ("path=f", Some("bytes=8-100"), part("bytes 8-9/10", "89")),
        ("path=f", Some("bytes=-2"), part("bytes 8-9/10", "89")),
        ("path=f&start=3&end=5", None, part("bytes 3-4/10", "34")),
        ("path=f&start=100", None, (200, String::new(), Bytes::new())),
        ("path=f", Some("bytes=0-1,3-4"), (200, String::new(), "0123456789".into())),
        ("path=empty", Some("bytes=0-9"), (200, String::new(), Bytes::new())),
    ] {
        assert_eq!(fs.read(query, header).await, expected, "{query} {header:?}");
    }
    let (status, range, _) = fs.read("path=f", Some("bytes=10-")).await;
    assert_eq!((status, &range[..]), (416, "bytes */10"));
}

#[tokio::test]
async fn errors_have_status_code_and_text() {
    let fs = fs();
    std::fs::create_dir(fs.home.join("dir")).unwrap();
    fs.put("dir/inner", "x");
    fs.put("file", "x");
    let long = "n".repeat(300);
    for (method, call, query, status, code, text) in [
        (Method::GET, "read", "path=none", 404, "ENOENT", "no such file or directory"),
        (Method::GET, "read", "path=dir", 400, "EISDIR", "is a directory"),
        (Method::GET, "read", "path=file/x", 400, "ENOTDIR", "not a directory"),
        (Method::GET, "read", "path=", 400, "EINVAL", "path is required"),
        (Method::GET, "read", "path=a%00b", 400, "EINVAL", "invalid argument"),
        (Method::GET, "read", "path=file&start=x", 400, "EINVAL", "start"),
        (Method::GET, "read", &format!("path={long}"), 400, "ENAMETOOLONG", "invalid argument"),
        (Method::GET, "list", "path=none", 404, "ENOENT", "no such file or directory"),
        (Method::GET, "list", "path=file/x", 400, "ENOTDIR", "not a directory"),
        (Method::PUT, "write", "path=dir", 400, "EISDIR", "is a directory"),
        (Method::PUT, "write", "path=no/file", 404, "ENOENT", "no such file or directory"),
        (Method::PUT, "write", "path=file/x", 400, "ENOTDIR", "not a directory"),
        (Method::PUT, "write", "path=x&mode=999", 400, "EINVAL", "mode"),
        (Method::DELETE, "delete", "path=none", 404, "ENOENT", "no such file or directory"),
        (Method::DELETE, "delete", "path=dir", 400, "ENOTEMPTY", "directory not empty"),
        (Method::DELETE, "delete", "path=/", 400, "EINVAL", "root directory"),
    ] {
        assert_error(&fs.query(method, call, query, "body").await, status, code, text);
    }
    let (status, _) = fs.query(Method::POST, "write", "path=x", "").await;
    assert_eq!(status, 405);
    for (call, body, status, code, text) in [
        ("rename", json!({"source":"none","dest":"x"}), 404, "ENOENT", "none"),
        ("rename", json!({"source":"file","dest":"no/x"}), 404, "ENOENT", "no/x"),
        ("rename", json!({"source":"dir"}), 400, "EINVAL", "path"),
        ("copy", json!({"source":"dir","dest":"d2"}), 400, "EISDIR", "is a directory"),
        ("copy", json!({"source":"none","dest":"d2"}), 404, "ENOENT", "no such file"),
        (
            "copy",
            json!({"source":"dir","dest":"dir/sub","recursive":true}),
            400,
            "EINVAL",
            "itself",
        ),
        ("copy", json!({"source":"file","dest":"./file"}), 400, "EINVAL", "same file"),
        ("chmod", json!({"path":"file","mode":"rwx"}), 400, "EINVAL", "octal"),
        ("chmod", json!({"path":"file"}), 400, "EINVAL", "mode"),
        ("chown", json!({"path":"file","uid":"no-such-user"}), 400, "EINVAL", "no user"),
        ("chown", json!({"path":"file","uid":-7}), 400, "EINVAL", "range"),
    ] {
        assert_error(&fs.post(call, body).await, status, code, text);
    }
    let (status, _) = fs.guest.json(Method::POST, "/v1/fs/copy", "{").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn parents_are_made_when_asked() {
    let fs = fs();
    let (status, _) = fs.query(Method::PUT, "write", "path=a/b/c&mkdirParents=true", "x").await;
    assert_eq!(status, 200);
    assert_eq!(fs.get("a/b/c"), "x");
    assert_eq!(fs.home.join("a/b").metadata().unwrap().mode() & 0o777, 0o755);
}

/// SDKs make a single directory by writing an empty `.keep` and deleting it.
#[tokio::test]
async fn an_empty_keep_file_makes_its_one_directory() {
    let fs = fs();
    assert_eq!(fs.query(Method::PUT, "write", "path=d/.keep", "").await.0, 200);
    assert!(fs.home.join("d/.keep").exists());
    assert_eq!(fs.query(Method::PUT, "write", "path=e/.keep", "content").await.0, 404);
    assert_eq!(fs.query(Method::PUT, "write", "path=e/f/.keep", "").await.0, 404);
    assert!(!fs.home.join("e").exists());
}

#[tokio::test]
async fn a_write_through_a_link_changes_its_target() {
    let fs = fs();
    fs.put("real", "old");
    std::os::unix::fs::symlink("real", fs.home.join("link")).unwrap();
    std::os::unix::fs::symlink("later", fs.home.join("dangling")).unwrap();
    std::os::unix::fs::symlink("loop", fs.home.join("loop")).unwrap();
    assert_eq!(fs.query(Method::PUT, "write", "path=link", "new").await.0, 200);
    assert_eq!(fs.query(Method::PUT, "write", "path=dangling", "made").await.0, 200);
    assert!(fs.home.join("link").is_symlink() && fs.home.join("dangling").is_symlink());
    assert_eq!((fs.get("real"), fs.get("later")), ("new".into(), "made".into()));
    let answer = fs.query(Method::PUT, "write", "path=loop", "x").await;
    assert_error(&answer, 400, "ELOOP", "symbolic links");
}

#[tokio::test]
async fn special_files_are_refused_and_block_nobody() {
    let fs = fs();
    rustix::fs::mkfifoat(rustix::fs::CWD, fs.home.join("fifo"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fs.home.join("socket")).unwrap();
    for path in ["fifo", "socket", "/dev/zero", "/dev/tty"] {
        let read = fs.query(Method::GET, "read", &format!("path={path}"), "").await;
        let write = fs.query(Method::PUT, "write", &format!("path={path}"), "x").await;
        for answer in [read, write] {
            assert!(answer.0 == 400, "{path} {answer:?}");
        }
        if path != "/dev/tty" {
            let copy = fs.post("copy", json!({"source": path, "dest": "copied"})).await;
            assert_error(&copy, 400, "EINVAL", "it is a");
        }
    }
    let (_, _, version) = fs.read("path=/proc/version", Some("bytes=0-3")).await;
    assert!(version.starts_with(b"Linux"), "files that claim to be empty are read");
    let (status, _, address) = fs.read("path=/sys/class/net/lo/address", None).await;
    assert_eq!((status, &address[..]), (200, &b"00:00:00:00:00:00\n"[..]), "or 4 KiB long");
}

#[tokio::test]
async fn listings_follow_the_contract() {
    let fs = fs();
    fs.put("b.txt", "abc");
    fs.put(".hidden", "");
    std::fs::create_dir_all(fs.home.join("dir/sub")).unwrap();
    fs.put("dir/a.txt", "");
    std::os::unix::fs::symlink("b.txt", fs.home.join("to-file")).unwrap();
    std::os::unix::fs::symlink("dir", fs.home.join("to-dir")).unwrap();

    let (status, list) = fs.query(Method::GET, "list", "path=.", "").await;
    assert_eq!((status, &list["path"]), (200, &json!(fs.home)));
    let names = |list: &Value| -> Vec<String> {
        let entries = list["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&list), [".hidden", "b.txt", "dir", "to-dir", "to-file"]);
    assert_eq!(list["count"], 5);
    let kinds: Vec<_> = list["entries"].as_array().unwrap().iter().collect();
    assert_eq!((&kinds[1]["type"], &kinds[1]["size"]), (&json!("file"), &json!(3)));
    assert_eq!((&kinds[2]["type"], &kinds[2]["isDir"]), (&json!("directory"), &json!(true)));
    assert_eq!((&kinds[3]["type"], &kinds[3]["isDir"]), (&json!("symlink"), &json!(true)));
    assert_eq!((&kinds[4]["type"], &kinds[4]["isDir"]), (&json!("symlink"), &json!(false)));
    assert!(kinds[1]["modTime"].as_str().unwrap().ends_with('Z'));

    let (_, list) = fs.query(Method::GET, "list", "path=.&recursive=true", "").await;
    let all = [".hidden", "b.txt", "dir", "a.txt", "sub", "to-dir", "to-file"];
    assert_eq!(names(&list), all);
    assert_eq!(list["entries"][3]["path"], json!(fs.path("dir/a.txt")));
    let (_, list) = fs.query(Method::GET, "list", "path=.&recursive=1&pattern=*.txt", "").await;
    assert_eq!(names(&list), ["b.txt", "a.txt"]);

    let (_, list) = fs.query(Method::GET, "list", "path=b.txt", "").await;
    assert_eq!((names(&list), &list["path"]), (vec!["b.txt".into()], &json!(fs.path("b.txt"))));
    assert_eq!(list["entries"][0]["path"], json!(fs.path("b.txt")));
    let (_, list) = fs.query(Method::GET, "list", "path=dir/sub", "").await;
    assert_eq!(list["entries"], json!([]));
}

#[tokio::test]
async fn deleting_follows_no_links() {
    let fs = fs();
    std::fs::create_dir_all(fs.home.join("dir/sub")).unwrap();
    fs.put("dir/sub/x", "");
    fs.put("keep", "");
    std::os::unix::fs::symlink("../keep", fs.home.join("dir/link")).unwrap();
    std::os::unix::fs::symlink("dir", fs.home.join("to-dir")).unwrap();
    let (_, answer) = fs.query(Method::DELETE, "delete", "path=to-dir&recursive=true", "").await;
    assert_eq!(answer["count"], 1);
    assert!(fs.home.join("dir").exists());
    let body = json!({"path": fs.path("dir"), "recursive": true}).to_string();
    let (status, answer) = fs.guest.json(Method::DELETE, "/v1/fs/delete", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["count"], 4);
    assert_eq!(answer["deleted"][3], json!(fs.path("dir")));
    assert!(fs.home.join("keep").exists() && !fs.home.join("dir").exists());
}

#[tokio::test]
async fn renaming_replaces_files() {
    let fs = fs();
    fs.put("a", "1");
    fs.put("b", "2");
    let (status, answer) = fs.post("rename", json!({"source":"a","dest":"b"})).await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"source": fs.path("a"), "dest": fs.path("b")}));
    assert_eq!(fs.get("b"), "1");
    assert!(!fs.home.join("a").exists());
}

/// Where a rename is impossible, the tree moves all the same.
#[tokio::test]
async fn renaming_crosses_file_systems() {
    let fs = fs();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: no /dev/shm");
    };
    if other.path().metadata().unwrap().dev() == fs.home.metadata().unwrap().dev() {
        return println!("skipped: /dev/shm is no file system of its own");
    }
    std::fs::create_dir(fs.home.join("tree")).unwrap();
    fs.put("tree/run", "#!");
    let path = fs.home.join("tree/run");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
    let dest = other.path().join("moved");
    let (status, answer) = fs.post("rename", json!({"source":"tree","dest":dest})).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!fs.home.join("tree").exists());
    assert_eq!(dest.join("run").metadata().unwrap().mode() & 0o777, 0o750);
}

#[tokio::test]
async fn copying_makes_parents_and_keeps_links() {
    let fs = fs();
    std::fs::create_dir(fs.home.join("src")).unwrap();
    fs.put("src/a", "12345");
    std::os::unix::fs::symlink("a", fs.home.join("src/link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, fs.home.join("src/fifo"), 0o600.into()).unwrap();
    let body = json!({"source":"src","dest":"new/place","recursive":true,"preserveAttrs":true});
    let (status, answer) = fs.post("copy", body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["count"], &answer["totalBytes"]), (&json!(3), &json!(5)));
    assert_eq!(fs.get("new/place/a"), "12345");
    assert_eq!(std::fs::read_link(fs.home.join("new/place/link")).unwrap(), Path::new("a"));
    let time = |path: &str| fs.home.join(path).metadata().unwrap().modified().unwrap();
    assert_eq!(time("src/a"), time("new/place/a"));
    let (status, _) = fs.post("copy", json!({"source":"src/a","dest":"new/place/a"})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn modes_and_owners_change_recursively() {
    let fs = fs();
    std::fs::create_dir(fs.home.join("d")).unwrap();
    fs.put("d/f", "");
    // 493 is what typed clients send for 0755.
    let body = json!({"path":"d","mode":493,"recursive":true});
    let (status, answer) = fs.post("chmod", body).await;
    assert_eq!((status, &answer["count"]), (200, &json!(2)));
    assert_eq!(answer["affected"][0], json!({"path": fs.path("d/f"), "mode": "0755"}));
    fs.post("chmod", json!({"path":"d/f","mode":"600"})).await;
    assert_eq!(fs.home.join("d/f").metadata().unwrap().mode() & 0o7777, 0o600);

    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let body = json!({"path":"d","uid":uid,"gid":gid.to_string(),"recursive":true});
    let (status, answer) = fs.post("chown", body).await;
    assert_eq!(status, 200, "{answer}");
    let expected = json!({"path": fs.path("d/f"), "uid": uid, "gid": gid});
    assert_eq!(answer["affected"][0], expected);
    if rustix::process::geteuid().is_root() {
        let (status, answer) = fs.post("chown", json!({"path":"d/f","uid":"daemon"})).await;
        assert_eq!((status, &answer["affected"][0]["uid"]), (200, &json!(1)));
    } else {
        println!("names skipped: only root may give files away");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_no_trace() {
    use tokio::io::AsyncWriteExt;
    let fs = fs();
    fs.put("f", "before");
    let mut io = fs.guest.connect().await;
    let head = format!(
        "PUT /v1/fs/write?path={} HTTP/1.1\r\nhost: guest\r\ncontent-length: 1000\r\n\r\nhalf",
        fs.path("f")
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let names = || std::fs::read_dir(&fs.home).unwrap().count();
    wait_until(|| names() == 2).await;
    drop(io);
    wait_until(|| names() == 1).await;
    assert_eq!(fs.get("f"), "before");
}

async fn wait_until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::guest::PATIENCE, wait).await.expect("the condition in time");
}

#[tokio::test]
async fn large_files_go_through_whole() {
    let fs = fs();
    let content: Vec<u8> = (0..40_u32 << 20).map(|i| (i / 7 % 251) as u8).collect();
    let path = format!("/v1/fs/write?path={}", fs.path("big"));
    let (status, _) = fs.guest.call(Method::PUT, &path, content.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, read) = fs.read("path=big", None).await;
    assert_eq!(status, 200);
    assert!(read == content);
}
