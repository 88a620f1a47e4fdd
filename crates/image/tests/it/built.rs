//! The minimal image, built once per host and looked at from outside and, in a chroot of its
//! own, from inside.

use std::fs;
use std::path::Path;
use std::process::Command;

use sprite_image::{Certificates, DEFAULT_CACHE_DIR, Image, Images, Recipe, Variant};

/// Builds the image, or takes it from the host's cache.
async fn minimal() -> Option<Image> {
    if std::env::var_os("SPRITES_TEST_IMAGE").is_none() {
        eprintln!("skipped: set SPRITES_TEST_IMAGE=1 to build an image (a minute, network)");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: building an image needs root");
        return None;
    }
    let dir = std::env::var("SPRITES_IMAGE_CACHE").unwrap_or(DEFAULT_CACHE_DIR.to_owned());
    let mut recipe = Recipe::of_host(Variant::Minimal).unwrap();
    recipe.certificates = Certificates::of_host(&[], |name| std::env::var(name).ok()).unwrap();
    recipe.certificates_in_image = std::env::var("SPRITED_CA_IN_IMAGE").is_ok_and(|v| v == "true");
    let report = |progress| eprintln!("{progress}");
    Some(Images::open(dir).unwrap().ensure(recipe, report).await.unwrap())
}

/// Runs a shell script inside a copy of the image, as root in a chroot, in namespaces of its own.
fn inside(image: &Path, script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.ext4");
    let status = Command::new("cp").arg("--sparse=always").arg(image).arg(&copy).status().unwrap();
    assert!(status.success());
    let mount = dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let outer = r#"set -e
        mount -o loop "$1" "$2"
        for dir in dev proc; do mount --rbind /$dir "$2/$dir"; done
        mount -t tmpfs tmpfs "$2/tmp"
        exec chroot "$2" /bin/bash -c "$3""#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--uts", "bash", "-c", outer, "bash"])
        .arg(&copy)
        .arg(&mount)
        .arg(script)
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}\n{err}");
    out.into_owned()
}

#[tokio::test]
async fn the_minimal_image_is_what_the_contract_says() {
    let Some(image) = minimal().await else { return };
    let check = Command::new("e2fsck").arg("-fn").arg(&image.path).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert_eq!(image.size.0, 100 << 30);

    // As root: what is where.
    let out = inside(
        &image.path,
        r#"set -eux
        cat /.sprite/version.txt
        test -s /.sprite/llm.txt -a -s /.sprite/llm-dev.txt -a -s /.sprite/docs/services.md
        test "$(cat /.sprite/policy/network.json)" = '{"rules":[]}'
        test -x /.sprite/bin/sprite-env -a -L /.sprite/bin/sprite-browser
        test ! -s /etc/machine-id -a -f /etc/machine-id -a ! -L /etc/resolv.conf
        test -z "$(find / -xdev -type b -o -xdev -type c)"
        test -z "$(ls /etc/ssh/ssh_host_* 2>/dev/null)"
        test -z "$(ls /usr/lib/python3*/EXTERNALLY-MANAGED 2>/dev/null)"
        test "$(stat -c '%U:%G %a' /)" = 'root:sprite 775'
        locale -a | grep -qi en_US.utf8
        getcap "$(command -v ping)" | grep -q cap_net_raw
        id sprite"#,
    );
    assert!(out.contains("uid=1001(sprite) gid=1001(sprite)"), "{out}");
    assert!(out.contains("27(sudo)") && out.contains("100(users)"), "{out}");

    // As the user: every program that clients expect, and writing where they write.
    let out = inside(
        &image.path,
        r#"exec setpriv --reuid 1001 --regid 1001 --init-groups env -i HOME=/home/sprite \
            PATH=/.sprite/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            LANG=en_US.UTF-8 bash -c 'set -eu; cd
        for program in sh bash env mkdir rm mv cat base64 tar mktemp printf test tee id stty tty \
            mountpoint dig python3 pip uv node npm npx git curl wget unzip rsync sudo apt-get \
            strace ping ps ip less locale; do
            command -v $program >/dev/null || { echo "missing: $program"; exit 1; }
        done
        test "$(command -v python3)" = /.sprite/bin/python3
        sudo -n id -u
        mkdir /workspace /opt/x /srv/x /mnt/x
        touch /root/x /.sprite/bin/x
        node -e "console.log(process.version)"
        npm --version >/dev/null
        python3 -c "import sys, sysconfig; print(sys.prefix, sysconfig.get_path(\"purelib\"))"
        python3 -m venv venv && venv/bin/python -m pip --version >/dev/null
        bash -lc "echo \$PATH"
        for skills in .claude .cursor .codex .gemini; do
            test -s $skills/skills/sprite-api-gateway/SKILL.md
        done
        echo héllo | LC_ALL=en_US.UTF-8 grep -c "^h.llo$"'"#,
    );
    assert!(out.starts_with("0\nv24."), "{out}");
    assert!(out.contains("/usr /usr/"), "{out}");
    assert!(out.contains("\n/.sprite/bin:/usr/local/sbin:"), "{out}");
    assert!(out.ends_with("\n1\n"), "{out}");
}

#[tokio::test]
async fn a_known_image_is_not_built_again() {
    let Some(first) = minimal().await else { return };
    let second = minimal().await.unwrap();
    assert_eq!((first.id, first.created_at), (second.id, second.created_at));
}

/// A recipe that no cache has.
fn unusual() -> Recipe {
    Recipe { size: sprite_types::ByteSize::gib(3), ..Recipe::of_host(Variant::Minimal).unwrap() }
}

fn processes_with(text: &str) -> usize {
    let me = std::process::id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str() != Some(me.as_str()))
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}

#[tokio::test]
async fn a_build_that_nobody_waits_for_ends_with_all_its_processes_and_files() {
    if minimal().await.is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path()).unwrap();
    let (began, steps) = tokio::sync::mpsc::unbounded_channel();
    let building = images.ensure(unusual(), move |progress| {
        let _ = began.send(progress.step);
    });
    let mut steps = steps;
    let unpacking = async {
        while let Some(step) = steps.recv().await {
            if step.starts_with("unpack") {
                return;
            }
        }
        panic!("the build ended before it unpacked anything");
    };
    tokio::select! {
        result = building => panic!("{result:?}"),
        () = unpacking => {}
    }
    let path = dir.path().to_str().unwrap();
    let left = || fs::read_dir(path).unwrap().any(|e| e.unwrap().file_name() != "lock");
    let started = std::time::Instant::now();
    while left() || processes_with(path) > 0 {
        assert!(started.elapsed().as_secs() < 60, "something of the build is left");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(images.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_build_names_the_step_and_keeps_its_log() {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/mmdebstrap").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path()).unwrap();
    // Larger than any file can be.
    let recipe = Recipe { size: sprite_types::ByteSize(1 << 63), ..unusual() };
    let error = images.ensure(recipe, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("make the files to write to: `truncate"), "{error}");
    assert!(error.contains("last-failed-build.log"), "{error}");
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["last-failed-build.log", "lock"]);
}

#[tokio::test]
async fn a_distribution_without_an_archive_is_an_error_that_says_where_to_add_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = unusual();
    recipe.distribution.codename = "nosuch".to_owned();
    let images = Images::open(dir.path()).unwrap();
    let error = images.ensure(recipe, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("sources.list"), "{error}");
}
