//! `sprite-env curl`: the real curl, pointed at the management API.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Failure;
use crate::http::socket_path;

/// Options of curl whose next argument is their value, as far as a value may look like a path.
const WITH_VALUE: [&str; 38] = [
    "-A",
    "-b",
    "-c",
    "-C",
    "-d",
    "-D",
    "-e",
    "-E",
    "-F",
    "-H",
    "-K",
    "-m",
    "-o",
    "-r",
    "-T",
    "-u",
    "-w",
    "-x",
    "-X",
    "-y",
    "-Y",
    "-z",
    "--cacert",
    "--capath",
    "--cert",
    "--config",
    "--cookie",
    "--cookie-jar",
    "--data",
    "--data-ascii",
    "--data-binary",
    "--data-raw",
    "--dump-header",
    "--form",
    "--key",
    "--output",
    "--request",
    "--upload-file",
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let args = arguments(args)?;
    // Returns only if it fails.
    let error = Command::new("curl").arg("--unix-socket").arg(socket_path()).args(args).exec();
    Err(Failure::error(format!("run curl: {error}")))
}

/// Completes the path, and adds the content type unless there is one.
fn arguments(args: &[String]) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    if !args.iter().any(|arg| arg.to_ascii_lowercase().contains("content-type:")) {
        out.extend(["-H".to_owned(), "Content-Type: application/json".to_owned()]);
    }
    let mut found = false;
    let mut is_value = false;
    for arg in args {
        if arg.starts_with('/') && !is_value && !found {
            out.push(format!("http://sprite{arg}"));
            found = true;
        } else {
            out.push(arg.clone());
        }
        is_value = WITH_VALUE.contains(&arg.as_str());
    }
    if !found {
        return Err(Failure::Usage("curl: a path such as /v1/info is missing".to_owned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> String {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        arguments(&args).map_or_else(|_| "refused".to_owned(), |args| args.join(" "))
    }

    #[test]
    fn the_path_is_found_among_curls_own_arguments() {
        let json = "-H Content-Type: application/json";
        assert_eq!(complete("/v1/info"), format!("{json} http://sprite/v1/info"));
        assert_eq!(
            complete("-o /tmp/out -X PUT /v1/tasks/a -d {}"),
            format!("{json} -o /tmp/out -X PUT http://sprite/v1/tasks/a -d {{}}")
        );
        assert_eq!(
            complete("-H content-type:text/plain /v1/x"),
            "-H content-type:text/plain http://sprite/v1/x"
        );
        assert_eq!(complete("-s"), "refused");
    }
}
