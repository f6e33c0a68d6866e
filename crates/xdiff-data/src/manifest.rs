//! Tables that list images: TSV or CSV with a header.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use crate::listing::{Entry, Listing};
use crate::mask::MaskKind;
use crate::split::Part;
use crate::{Error, Result};

/// A column by its name in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The name.
    pub name: String,
    /// Whether a manifest without it is refused, rather than read as if the column were empty.
    pub required: bool,
}

impl Column {
    /// A column that must be there.
    pub fn required(name: impl Into<String>) -> Self {
        Self { name: name.into(), required: true }
    }

    /// A column that may be absent.
    pub fn optional(name: impl Into<String>) -> Self {
        Self { name: name.into(), required: false }
    }
}

/// What kind the masks in the `pair` column are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// All of one kind, so at most one an image.
    All(MaskKind),
    /// The name in the class column of the mask's own row.
    ByClass,
}

/// How a manifest is read. Paths are relative to the manifest's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManifestConfig {
    /// The image's path.
    pub path: Column,
    /// The class.
    pub class: Column,
    /// The part: `train`, `val` (also `valid`, `validation`), `test`, or `none` or empty for no part.
    pub split: Column,
    /// The patient or other group.
    pub group: Column,
    /// The masks of an image, `;` between several.
    pub pair: Column,
    /// What the row is.
    pub role: Column,
    /// The role of the rows that are images. Rows of other roles are not listed. Without a role column
    /// every row is an image.
    pub image_role: String,
    /// Only rows whose column has one of the values are listed; all filters must agree.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Only rows whose path lies below this folder are listed; relative to the manifest's folder, with
    /// `/` between names.
    pub below: Option<String>,
    /// The kind of the masks.
    pub pair_kind: PairKind,
    /// Whether each listed file must exist.
    pub check_files: bool,
}

impl Default for ManifestConfig {
    /// Columns `path`, `class`, `split`, `group`, `pair` and `role`, of which only `path` is required.
    fn default() -> Self {
        Self {
            path: Column::required("path"),
            class: Column::optional("class"),
            split: Column::optional("split"),
            group: Column::optional("group"),
            pair: Column::optional("pair"),
            role: Column::optional("role"),
            image_role: "image".into(),
            filters: BTreeMap::new(),
            below: None,
            pair_kind: PairKind::All(MaskKind::Lesion),
            check_files: true,
        }
    }
}

impl ManifestConfig {
    /// Lists only rows whose `column` has one of the values.
    pub fn filter<S: Into<String>>(mut self, column: &str, values: impl IntoIterator<Item = S>) -> Self {
        self.filters.insert(column.into(), values.into_iter().map(Into::into).collect());
        self
    }
}

/// Reads a manifest. A name ending in `.csv` is comma-separated with quotes, any other tab-separated
/// without.
///
/// # Errors
/// When the file cannot be read or is empty; a column is missing or doubled; a row has too few or too
/// many fields, bad UTF-8, an empty, absolute or escaping path, a path listed before, an unknown split
/// name, a file that does not exist, or masks that `pair_kind` cannot name. All but the first give the line.
pub fn read_manifest(path: impl AsRef<Path>, config: &ManifestConfig) -> Result<Listing> {
    let path = path.as_ref();
    let table = Table::read(path, config)?;
    let root = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut lines: HashMap<&str, u64> = HashMap::new();
    for row in &table.rows {
        if let Some(earlier) = lines.insert(&row.path, row.line) {
            let reason = format!("`{}` is already on line {earlier}", row.path);
            return Err(table.error(row.line, reason, "keep one of the rows"));
        }
    }
    let classes: HashMap<&str, &str> =
        table.rows.iter().filter_map(|r| Some((r.path.as_str(), r.class.as_deref()?))).collect();
    let mut entries = Vec::new();
    for row in table.rows.iter().filter(|r| r.listed) {
        let masks = row.masks(&table, config, &classes)?;
        let masks: Vec<_> = masks.into_iter().map(|(kind, relative)| (kind, root.join(relative))).collect();
        let file = root.join(&row.path);
        let mut files = std::iter::once(&file).chain(masks.iter().map(|(_, path)| path));
        if let Some(missing) = files.find(|f| config.check_files && !f.is_file()) {
            let reason = format!("{} does not exist or is not a file", missing.display());
            return Err(table.error(row.line, reason, "paths are relative to the manifest's folder"));
        }
        entries.push(Entry {
            id: row.path.clone(),
            path: file,
            class: row.class.clone(),
            group: row.group.clone(),
            part: row.part,
            masks,
        });
    }
    Ok(Listing::new(entries, Vec::new()))
}

/// More than any list of files needs.
const MOST_BYTES: u64 = 1 << 30;

fn read_text(file: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(file).map_err(|e| Error::io(file, e))?.len();
    if size > MOST_BYTES {
        let what = format!("the manifest of {size} bytes");
        return Err(Error::TooLarge { path: file.into(), what, limit: format!("{MOST_BYTES} bytes") });
    }
    std::fs::read(file).map_err(|e| Error::io(file, e))
}

struct Table {
    file: PathBuf,
    text: Vec<u8>,
    rows: Vec<Row>,
}

struct Row {
    line: u64,
    path: String,
    class: Option<String>,
    group: Option<String>,
    part: Option<Part>,
    pairs: Vec<String>,
    listed: bool,
}

impl Row {
    fn masks(
        &self,
        table: &Table,
        config: &ManifestConfig,
        classes: &HashMap<&str, &str>,
    ) -> Result<Vec<(MaskKind, String)>> {
        let mut masks: Vec<(MaskKind, String)> = Vec::new();
        for pair in &self.pairs {
            let kind = match &config.pair_kind {
                PairKind::All(kind) => kind.clone(),
                PairKind::ByClass => MaskKind::from_name(classes.get(pair.as_str()).ok_or_else(|| {
                    let reason = format!("the mask `{pair}` has no row with a class");
                    table.error(self.line, reason, "add the row, or name the kind with `PairKind::All`")
                })?),
            };
            if masks.iter().any(|(k, _)| *k == kind) {
                let reason = format!("two masks of kind `{kind}`");
                return Err(table.error(self.line, reason, "use `PairKind::ByClass`, or keep one of them"));
            }
            masks.push((kind, pair.clone()));
        }
        Ok(masks)
    }
}

/// Where the columns stand in the header.
struct Header {
    names: usize,
    path: usize,
    class: Option<usize>,
    split: Option<usize>,
    group: Option<usize>,
    pair: Option<usize>,
    role: Option<usize>,
    filters: Vec<(usize, Vec<String>)>,
}

impl Table {
    fn read(file: &Path, config: &ManifestConfig) -> Result<Self> {
        let text = read_text(file)?;
        let mut table = Self { file: file.to_path_buf(), text, rows: Vec::new() };
        let commas = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(if commas { b',' } else { b'\t' })
            .quoting(commas)
            .flexible(true)
            .from_reader(table.text.as_slice());
        let names = reader.headers().map_err(|e| table.csv_error(&e))?.clone();
        let header = table.header(&names, config)?;
        let rows = reader.records().map(|record| {
            let record = record.map_err(|e| table.csv_error(&e))?;
            table.row(&record, &header, config)
        });
        let rows = rows.collect::<Result<_>>()?;
        table.rows = rows;
        Ok(table)
    }

    fn header(&self, names: &StringRecord, config: &ManifestConfig) -> Result<Header> {
        if names.iter().all(|n| n.trim().is_empty()) {
            return Err(self.error(1, "the manifest is empty", "the first line must name the columns"));
        }
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|n| n == name) {
                return Err(self.error(1, format!("the column `{name}` occurs twice"), "rename one of them"));
            }
        }
        let place = |name: &str| names.iter().position(|n| n == name);
        let required = |name: &str| {
            place(name).ok_or_else(|| {
                let found: Vec<&str> = names.iter().collect();
                let reason = format!("no column `{name}`; there are [{}]", found.join(", "));
                self.error(
                    1,
                    reason,
                    "name the columns in `ManifestConfig`; a .csv file is split at commas, any other at tabs",
                )
            })
        };
        let find = |c: &Column| if c.required { required(&c.name).map(Some) } else { Ok(place(&c.name)) };
        let filters = config.filters.iter().map(|(name, values)| Ok((required(name)?, values.clone())));
        Ok(Header {
            names: names.len(),
            path: required(&config.path.name)?,
            class: find(&config.class)?,
            split: find(&config.split)?,
            group: find(&config.group)?,
            pair: find(&config.pair)?,
            role: find(&config.role)?,
            filters: filters.collect::<Result<_>>()?,
        })
    }

    fn row(&self, record: &StringRecord, header: &Header, config: &ManifestConfig) -> Result<Row> {
        let line = self.line(record.position());
        if record.len() != header.names {
            return Err(self.error(
                line,
                format!("{} fields, but the header has {}", record.len(), header.names),
                "check for a missing or an extra separator",
            ));
        }
        let text = |place: Option<usize>| {
            place.and_then(|i| record.get(i)).map(str::trim).filter(|t| !t.is_empty()).map(str::to_string)
        };
        let path = self.relative(line, &text(Some(header.path)).unwrap_or_default())?;
        let is_below = config.below.as_ref().is_none_or(|folder| {
            let folder = folder.trim_matches('/');
            folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        });
        let pairs = text(header.pair).unwrap_or_default();
        let role = text(header.role);
        let is_image = header.role.is_none() || role.as_deref() == Some(config.image_role.as_str());
        let wanted = |(i, values): &(usize, Vec<String>)| {
            record.get(*i).is_some_and(|v| values.iter().any(|w| w == v))
        };
        Ok(Row {
            line,
            path,
            class: text(header.class),
            group: text(header.group),
            part: self.part(line, text(header.split).as_deref())?,
            pairs: pairs
                .split(';')
                .filter(|p| !p.trim().is_empty())
                .map(|p| self.relative(line, p.trim()))
                .collect::<Result<_>>()?,
            listed: is_image && is_below && header.filters.iter().all(wanted),
        })
    }

    fn part(&self, line: u64, name: Option<&str>) -> Result<Option<Part>> {
        match name.map(str::to_ascii_lowercase).as_deref() {
            None | Some("none") => Ok(None),
            Some("train") => Ok(Some(Part::Train)),
            Some("val" | "valid" | "validation") => Ok(Some(Part::Val)),
            Some("test") => Ok(Some(Part::Test)),
            Some(other) => {
                Err(self.error(line, format!("unknown split `{other}`"), "use train, val, test or none"))
            }
        }
    }

    /// A path with its dots and doubled separators removed, refused when it could leave the root. Both
    /// separators count, so that a manifest means the same on every system.
    fn relative(&self, line: u64, path: &str) -> Result<String> {
        let refuse = |reason: &str| {
            Err(self.error(
                line,
                format!("the path `{path}` {reason}"),
                "paths are relative to the manifest's folder and stay in it",
            ))
        };
        if path.is_empty() {
            return refuse("is empty");
        }
        if path.contains('\0') {
            return refuse("holds a zero byte");
        }
        if path.split(['/', '\\']).any(|p| p == "..") {
            return refuse("leads out of the folder by `..`");
        }
        if path.starts_with(['/', '\\']) || path.as_bytes().get(1) == Some(&b':') {
            return refuse("is absolute");
        }
        let names: Vec<String> = Path::new(path)
            .components()
            .filter_map(|c| match c {
                Component::Normal(n) => Some(n.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        if names.is_empty() { refuse("names no file") } else { Ok(names.join("/")) }
    }

    fn error(&self, line: u64, reason: impl Into<String>, hint: &'static str) -> Error {
        Error::Manifest { path: self.file.clone(), line, reason: reason.into(), hint }
    }

    /// The line that a record starts on. The reader counts from the end of the record before, so blank
    /// lines between the two are added here.
    fn line(&self, position: Option<&csv::Position>) -> u64 {
        let Some(position) = position else { return 1 };
        let rest = self.text.get(position.byte() as usize..).unwrap_or(&[]);
        let blank = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).filter(|b| **b == b'\n');
        position.line() + blank.count() as u64
    }

    fn csv_error(&self, error: &csv::Error) -> Error {
        let line = self.line(error.position());
        match error.kind() {
            csv::ErrorKind::Utf8 { .. } => {
                self.error(line, "not valid UTF-8", "save the manifest as UTF-8 text")
            }
            _ => self.error(line, error.to_string(), "the manifest must be TSV or CSV text"),
        }
    }
}
