//! Files of a hub: from the cache, from a made-up hub on this machine, and from none.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xdiff_data::hub::{HubFault, HubFile, HubOptions, RepoKind, Token, fetch};
use xdiff_data::{Error, Result};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sum(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

fn options(cache: &Path) -> HubOptions {
    HubOptions {
        cache: Some(cache.into()),
        progress: false,
        patience: Duration::from_secs(2),
        ..HubOptions::default()
    }
}

fn fault(result: Result<std::path::PathBuf>) -> HubFault {
    match result {
        Err(Error::Hub { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// A hub that answers each request, given its first line, by what `answer` says; `None` keeps silent.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn new(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let lines = BufReader::new(&stream).lines();
                let request: Vec<String> = lines.map_while(|l| l.ok().filter(|l| !l.is_empty())).collect();
                let first = request.first().cloned().unwrap_or_default();
                log.lock().unwrap().push(first.clone());
                match answer(&first) {
                    Some(text) => stream.write_all(text.as_bytes()).unwrap_or(()),
                    None => silent.push(stream),
                }
            }
        });
        Self { endpoint, asked }
    }

    fn options(&self, cache: &Path) -> HubOptions {
        HubOptions { endpoint: self.endpoint.clone(), ..options(cache) }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}"))
}

/// What a hub says of a small file.
fn small(content: &'static str) -> impl Fn(&str) -> Option<String> + Send + 'static {
    move |line| {
        let headers =
            format!("X-Repo-Commit: {COMMIT}\r\nETag: \"abc123\"\r\nContent-Length: {}\r\n", content.len());
        answer("200 OK", &headers, if line.starts_with("HEAD") { "" } else { content })
    }
}

#[test]
fn what_is_cached_needs_no_network() {
    let cache = TempDir::new().unwrap();
    let repo = cache.path().join("datasets--owner--scans");
    let snapshot = repo.join("snapshots").join(COMMIT).join("deep");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs/refs")).unwrap();
    fs::write(repo.join("refs/refs/v1"), COMMIT).unwrap();
    fs::write(snapshot.join("a.bin"), "content").unwrap();
    let wanted = HubFile {
        kind: RepoKind::Dataset,
        revision: "refs/v1".into(),
        ..HubFile::new("owner/scans", "deep/a.bin")
    };
    // Nothing listens there.
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:9".into(), ..options(cache.path()) };
    let offline = HubOptions { offline: true, ..nowhere.clone() };
    for options in [&nowhere, &offline] {
        assert_eq!(fetch(&wanted, options).unwrap(), snapshot.join("a.bin"));
    }
    // By its commit too.
    let commit = HubFile { revision: COMMIT.into(), ..wanted.clone() };
    assert_eq!(fetch(&commit, &offline).unwrap(), snapshot.join("a.bin"));
    let good = HubFile { sha256: Some(sum(b"content").to_uppercase()), ..wanted.clone() };
    assert!(fetch(&good, &offline).is_ok());
    let bad = HubFile { sha256: Some(sum(b"other")), ..wanted.clone() };
    let HubFault::Digest { place, expected, got, .. } = fault(fetch(&bad, &offline)) else { panic!() };
    assert_eq!((place, &*expected, &*got), (snapshot.join("a.bin"), &*sum(b"other"), &*sum(b"content")));
    assert!(snapshot.join("a.bin").is_file(), "it may be the user's own");
}

#[test]
fn what_is_not_cached_is_missed_with_a_remedy() {
    let cache = TempDir::new().unwrap();
    let wanted = HubFile::new("owner/model", "a.safetensors");
    let offline = HubOptions { offline: true, ..options(cache.path()) };
    let error = fetch(&wanted, &offline).unwrap_err().to_string();
    let place = cache.path().join("models--owner--model/snapshots/main/a.safetensors");
    assert!(error.contains("offline") && error.contains(&place.display().to_string()), "{error}");

    let begun = Instant::now();
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:9".into(), ..options(cache.path()) };
    let error = fetch(&wanted, &nowhere).unwrap_err();
    assert!(error.to_string().contains("could not reach http://127.0.0.1:9"), "{error}");
    assert!(matches!(error, Error::Hub { fault: HubFault::Unreachable { .. }, .. }));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_silent_hub_is_not_waited_for() {
    let cache = TempDir::new().unwrap();
    let mute = Hub::new(|_| None);
    // It names the file, and gives nothing of it.
    let stalls = Hub::new(|line| {
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"abc\"\r\nContent-Length: 8\r\n");
        if line.starts_with("HEAD") { answer("200 OK", &headers, "") } else { None }
    });
    for hub in [&mute, &stalls] {
        let begun = Instant::now();
        let patient = HubOptions { patience: Duration::from_millis(300), ..hub.options(cache.path()) };
        let fault = fault(fetch(&HubFile::new("o/m", "f"), &patient));
        assert!(
            matches!(&fault, HubFault::Unreachable { reason, .. } if reason.contains("timeout")),
            "{fault}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_file_is_transferred_once() {
    let cache = TempDir::new().unwrap();
    let hub = Hub::new(small("weights"));
    let wanted = HubFile { sha256: Some(sum(b"weights")), ..HubFile::new("o/m", "sub dir/f.bin") };
    let path = fetch(&wanted, &hub.options(cache.path())).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "weights");
    let repo = cache.path().join("models--o--m");
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("sub dir/f.bin"));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_to_string(repo.join("blobs/abc123")).unwrap(), "weights");
    let asked = hub.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].starts_with("HEAD /o/m/resolve/main/sub%20dir/f.bin "), "{asked:?}");
    assert_eq!(fetch(&wanted, &hub.options(cache.path())).unwrap(), path);
    assert_eq!(hub.asked().len(), 2);
    // The cache may be moved.
    let moved = TempDir::new().unwrap();
    fs::rename(&repo, moved.path().join("models--o--m")).unwrap();
    let offline = HubOptions { offline: true, ..hub.options(moved.path()) };
    assert_eq!(fs::read_to_string(fetch(&wanted, &offline).unwrap()).unwrap(), "weights");
}

#[test]
fn large_files_are_followed_to_where_they_lie() {
    let cache = TempDir::new().unwrap();
    let etag = sum(b"large");
    let hub = Hub::new(move |line| {
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        match path.as_str() {
            "/datasets/old/d/resolve/refs%2Fv1/f" => {
                answer("307 Temporary Redirect", "Location: /datasets/new/d/f\r\nContent-Length: 0\r\n", "")
            }
            "/datasets/new/d/f" => {
                let headers = format!(
                    "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: 5\r\nLocation: /store/f\r\nContent-Length: 0\r\n"
                );
                // To another server, as seen by a client; the same one here.
                let host = if line.starts_with("HEAD") {
                    headers.replace("/store", "http://elsewhere/store")
                } else {
                    headers
                };
                answer("302 Found", &host, "")
            }
            _ => answer("200 OK", "Content-Length: 5\r\n", "large"),
        }
    });
    let wanted =
        HubFile { kind: RepoKind::Dataset, revision: "refs/v1".into(), ..HubFile::new("old/d", "f") };
    let path = fetch(&wanted, &hub.options(cache.path())).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "large");
    assert_eq!(
        fetch(&wanted, &HubOptions { offline: true, ..options(cache.path()) }).unwrap().file_name().unwrap(),
        "f"
    );
}

#[test]
fn what_is_wrong_is_not_kept() {
    let sized = |bytes: usize, etag: &str, body: &'static str| {
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nX-Linked-Size: {bytes}\r\nETag: \"{etag}\"\r\n");
        Hub::new(move |line| answer("200 OK", &headers, if line.starts_with("HEAD") { "" } else { body }))
    };
    let status = |status: &'static str| Hub::new(move |_| answer(status, "Content-Length: 0\r\n", ""));
    let wanted = HubFile::new("o/m", "f");
    let summed = HubFile { sha256: Some(sum(b"expected")), ..wanted.clone() };
    type Fits = fn(&Error) -> bool;
    let digest: Fits = |e| matches!(e, Error::Hub { fault: HubFault::Digest { .. }, .. });
    let large: Fits = |e| matches!(e, Error::TooLarge { .. });
    let odd: Fits = |e| matches!(e, Error::Hub { fault: HubFault::Answer { .. }, .. });
    let cases: Vec<(&str, Hub, &HubFile, Fits)> = vec![
        ("another sum", sized(3, "e", "abc"), &summed, digest),
        ("another sum than promised", sized(3, &"0".repeat(64), "abc"), &wanted, digest),
        ("too large", sized(1001, "e", "abc"), &wanted, large),
        ("larger than it says", sized(3, "e", "abcd"), &wanted, odd),
        ("shorter than it says", sized(9, "e", "abcd"), &wanted, odd),
        ("no etag", sized(3, "", "abc"), &wanted, odd),
        ("an etag that is a path", sized(3, "../../x", "abc"), &wanted, odd),
        ("no hub", status("200 OK"), &wanted, odd),
        ("no file", status("404 Not Found"), &wanted, |e| {
            matches!(e, Error::Hub { fault: HubFault::Refused { status: 404, .. }, .. })
        }),
        ("not allowed", status("401 Unauthorized"), &wanted, |e| e.to_string().contains("token")),
        (
            "in circles",
            Hub::new(|_| answer("302 Found", "Location: /again\r\nContent-Length: 0\r\n", "")),
            &wanted,
            odd,
        ),
        ("not HTTP", Hub::new(|_| Some("SSH-2.0\r\n".into())), &wanted, |e| {
            matches!(e, Error::Hub { fault: HubFault::Unreachable { .. }, .. })
        }),
    ];
    for (what, hub, file, fits) in cases {
        let cache = TempDir::new().unwrap();
        let limited = HubOptions { most_bytes: 1000, ..hub.options(cache.path()) };
        let error = fetch(file, &limited).unwrap_err();
        assert!(fits(&error), "{what}: {error:?}");
        let kept = walkdir_files(cache.path());
        assert!(kept.is_empty(), "{what}: {kept:?}");
    }
}

fn walkdir_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walkdir_files(&p) } else { vec![p] }).collect()
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let cache = TempDir::new().unwrap();
    let offline = HubOptions { offline: true, ..options(cache.path()) };
    let good = HubFile::new("o/m", "f");
    let cases = [
        HubFile { repo: "../m".into(), ..good.clone() },
        HubFile { repo: "a/b/c".into(), ..good.clone() },
        HubFile { repo: String::new(), ..good.clone() },
        HubFile { repo: "o/m?x".into(), ..good.clone() },
        HubFile { revision: "../main".into(), ..good.clone() },
        HubFile { file: "/etc/passwd".into(), ..good.clone() },
        HubFile { file: "a/../../b".into(), ..good.clone() },
        HubFile { file: "a%2e".into(), ..good.clone() },
        HubFile { sha256: Some("12".into()), ..good.clone() },
    ];
    for file in cases {
        assert!(matches!(fetch(&file, &offline), Err(Error::Argument { .. })), "{file:?}");
    }
    let hasty = HubOptions { patience: Duration::ZERO, ..offline };
    assert!(matches!(fetch(&good, &hasty), Err(Error::Argument { .. })));
}

#[test]
fn a_token_is_neither_shown_nor_sent_in_the_clear() {
    let cache = TempDir::new().unwrap();
    let secret = Token::Given("hf_secret".into());
    let hub = Hub::new(small("x"));
    let options = HubOptions { token: secret, ..hub.options(cache.path()) };
    assert!(!format!("{options:?}").contains("secret"));
    let error = fetch(&HubFile::new("o/m", "f"), &options).unwrap_err();
    assert!(matches!(error, Error::Argument { what: "endpoint", .. }), "{error}");
    assert!(hub.asked().is_empty());
}
