//! From the hub to the cache.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, RequestBuilder};
use xdiff_nn::weights::{remove_leftovers, write_atomically};

use super::cache::{Place, hex};
use super::{HubFault, HubFile, HubOptions, RepoKind, Token, fault};
use crate::{Error, Result};

/// How often an answer may lead elsewhere.
const MOST_REDIRECTS: u32 = 5;

/// What the hub says of a file before it is transferred.
struct Remote {
    commit: String,
    /// The hub's name for the content: its SHA-256 for large files.
    etag: String,
    bytes: Option<u64>,
}

struct Link<'a> {
    file: &'a HubFile,
    options: &'a HubOptions,
    place: &'a Place,
    token: Option<String>,
}

pub(super) fn transfer(file: &HubFile, options: &HubOptions, place: &Place) -> Result<PathBuf> {
    let token = match &options.token {
        Token::None => None,
        Token::Given(token) => Some(token.clone()),
        Token::Environment => Some(std::env::var("HF_TOKEN").map_err(|_| {
            Error::argument("token", "the environment has no `HF_TOKEN`; set it, or ask for no token")
        })?),
    };
    if token.is_some() && !options.endpoint.starts_with("https://") {
        let reason = format!("{} is not https, and a token would be sent in the clear", options.endpoint);
        return Err(Error::argument("endpoint", reason));
    }
    let link = Link { file, options, place, token };
    let remote = link.describe()?;
    link.check_size(remote.bytes.unwrap_or(0))?;
    link.download(&remote)?;
    place.link(&remote.etag, &remote.commit)
}

impl Link<'_> {
    fn address(&self) -> String {
        let kind = match self.file.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
            RepoKind::Space => "spaces/",
        };
        let revision = self.file.revision.replace('/', "%2F");
        let path = self.file.file.replace(' ', "%20").replace('+', "%2B");
        let endpoint = self.options.endpoint.trim_end_matches('/');
        format!("{endpoint}/{kind}{}/resolve/{revision}/{path}", self.file.repo)
    }

    fn agent(&self, redirects: u32) -> Agent {
        let patience = Some(self.options.patience);
        // No proxy leads to this machine.
        let host = origin(&self.options.endpoint).split("://").last().unwrap_or_default();
        let local = ["127.0.0.1", "localhost", "[::1]"].iter().any(|h| host.starts_with(h));
        let proxy = if local { None } else { ureq::Proxy::try_from_env() };
        Agent::config_builder()
            .proxy(proxy)
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_send_request(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .timeout_per_write(patience)
            .http_status_as_error(false)
            .max_redirects(redirects)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("xdiff-data/", env!("CARGO_PKG_VERSION")))
            // As it is, so that its length is known.
            .accept_encoding("identity")
            .build()
            .into()
    }

    fn with_token<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn fault(&self, fault_: HubFault) -> Error {
        fault(self.file, fault_)
    }

    fn answer(&self, reason: impl Into<String>) -> Error {
        self.fault(HubFault::Answer { reason: reason.into() })
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Error {
        self.fault(HubFault::Unreachable {
            endpoint: self.options.endpoint.clone(),
            reason: error.to_string(),
            place: self.place.by_hand(),
        })
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        if bytes <= self.options.most_bytes {
            return Ok(());
        }
        Err(Error::TooLarge {
            path: self.address().into(),
            what: format!("the file of {bytes} bytes"),
            limit: format!("{} bytes", self.options.most_bytes),
        })
    }

    fn check_status(&self, status: u16) -> Result<()> {
        let reason = match status {
            200..=399 => return Ok(()),
            401 | 403 => "the file is private, gated or not there; give a token that may read it",
            404 => "there is no such repository, revision or file; check the three names",
            429 => "too many requests; wait a while",
            500.. => "the hub is in trouble; try again later",
            _ => "the request is refused",
        };
        Err(self.fault(HubFault::Refused { status, reason }))
    }

    /// Asks for commit, name and size of the content, which the hub tells before it leads to where the
    /// content lies. Renamed repositories lead elsewhere on the same hub first.
    fn describe(&self) -> Result<Remote> {
        let agent = self.agent(0);
        let mut address = self.address();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.with_token(agent.head(&address)).call().map_err(|e| self.unreachable(&e))?;
            self.check_status(response.status().as_u16())?;
            match text(response.headers(), "location") {
                Some(next) if response.status().is_redirection() && next.starts_with('/') => {
                    address = format!("{}{next}", origin(&self.options.endpoint));
                }
                _ => return self.remote(&response),
            }
        }
        Err(self.answer(format!("{} leads elsewhere more than {MOST_REDIRECTS} times", self.address())))
    }

    fn remote(&self, response: &Response<Body>) -> Result<Remote> {
        let headers = response.headers();
        let name = |text: &str| {
            (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let missing = |what: &str| self.answer(format!("the answer gives no {what}, as one of a hub does"));
        let commit = text(headers, "x-repo-commit").filter(|c| name(c)).ok_or_else(|| missing("commit"))?;
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_string());
        let etag = etag.filter(|e| name(e)).ok_or_else(|| missing("etag"))?;
        let number = |header: &str| text(headers, header).and_then(|t| t.parse::<u64>().ok());
        let own_length = if response.status().is_success() { number("content-length") } else { None };
        Ok(Remote { commit, etag, bytes: number("x-linked-size").or(own_length) })
    }

    fn download(&self, remote: &Remote) -> Result<()> {
        let response = self
            .with_token(self.agent(MOST_REDIRECTS).get(self.address()))
            .call()
            .map_err(|e| self.unreachable(&e))?;
        self.check_status(response.status().as_u16())?;
        let blob = self.place.blob(&remote.etag);
        let folder = blob.parent().unwrap_or(&blob);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        remove_leftovers(&blob);
        let bar = self.bar(remote.bytes);
        let mut source = bar.wrap_read(response.into_body().into_reader());
        // What is wrong with the answer, rather than with the disk.
        let mut wrong = None;
        let written = write_atomically(&blob, |out| {
            self.copy(&mut source, out, remote).map_err(|e| {
                let words = e.to_string();
                wrong = Some(e);
                io::Error::other(words)
            })
        });
        bar.finish_and_clear();
        match (written, wrong) {
            (_, Some(error)) => Err(error),
            (Err(xdiff_nn::Error::Io { path, source }), _) => Err(Error::io(path, source)),
            (Err(other), _) => Err(self.answer(other.to_string())),
            (Ok(()), None) => Ok(()),
        }
    }

    fn bar(&self, bytes: Option<u64>) -> ProgressBar {
        if !self.options.progress {
            return ProgressBar::hidden();
        }
        let bar = bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
        // indicatif draws nothing where there is no terminal.
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style).with_message(self.file.file.clone())
    }

    fn copy(&self, source: &mut impl Read, out: &mut dyn Write, remote: &Remote) -> Result<()> {
        let place = self.place.blob(&remote.etag);
        let mut hash = Sha256::new();
        let mut block = vec![0; 1 << 16];
        let mut total = 0u64;
        loop {
            let n = source.read(&mut block).map_err(|e| self.unreachable(&e))?;
            if n == 0 {
                break;
            }
            total += n as u64;
            self.check_size(total)?;
            hash.update(&block[..n]);
            out.write_all(&block[..n]).map_err(|e| Error::io(&place, e))?;
        }
        if let Some(bytes) = remote.bytes.filter(|b| *b != total) {
            return Err(self.answer(format!("{total} bytes came of {bytes}")));
        }
        let got = hex(&hash.finalize());
        // Large files are named by their sum.
        let promised = Some(&remote.etag).filter(|e| e.len() == 64);
        for expected in [self.file.sha256.as_ref(), promised].into_iter().flatten() {
            if !got.eq_ignore_ascii_case(expected) {
                let hint = "it was not kept; correct the expected sum, or try again";
                let expected = expected.clone();
                return Err(self.fault(HubFault::Digest {
                    place,
                    expected: expected.into(),
                    got: got.into(),
                    hint,
                }));
            }
        }
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_string)
}

/// The scheme and host of an address.
fn origin(address: &str) -> &str {
    let start = address.find("://").map_or(0, |n| n + 3);
    let end = address[start..].find('/').map_or(address.len(), |n| start + n);
    &address[..end]
}
