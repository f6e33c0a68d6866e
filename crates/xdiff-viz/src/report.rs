//! One HTML file with text, figures, tables and where they come from.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{Error, Result, Table, encode_png, write_atomic};

/// A report in one self-contained HTML file: pictures are inside, nothing is loaded from
/// elsewhere, and no script runs. It follows the reader's light or dark colour scheme.
///
/// Parts appear in the order in which they are added; what comes before the first section is the
/// introduction. All text is escaped.
///
/// ```
/// use image::RgbImage;
/// use xdiff_viz::{Cell, Report, Table};
///
/// let mut table = Table::new(["method", "AUC"]);
/// table.push([Cell::from("DF-RISE"), Cell::number(0.313, 3)])?;
///
/// let mut report = Report::new("Faithfulness of attributions");
/// report.paragraph("Pixels are deleted in the order of their relevance.");
/// report.section("Deletion");
/// report.table(&table, "Area under the deletion curve, n = 200.");
/// report.figure(&RgbImage::new(64, 64), "A phantom.", "A black square")?;
/// report.warning("Trained for 200 steps only.");
/// report.provenance("seed", "7");
/// let html = report.to_html();
/// assert!(html.contains("<h2 id=\"section-1\">Deletion</h2>"));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Report {
    title: String,
    /// Headings of sections in their order; the number of each is its place here plus one.
    sections: Vec<String>,
    blocks: Vec<Block>,
    provenance: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Block {
    Section { number: usize, heading: String },
    Subsection(String),
    Paragraph(String),
    Note(String),
    Warning(String),
    Figure { png: String, size: (u32, u32), caption: String, alt: String },
    Table { table: Table, caption: String },
    KeyValues(Vec<(String, String)>),
    Preformatted { caption: String, text: String },
}

impl Report {
    /// An empty report.
    pub fn new(title: impl Into<String>) -> Self {
        Report { title: title.into(), sections: Vec::new(), blocks: Vec::new(), provenance: Vec::new() }
    }

    /// Begins a section. From three sections on, the report has a list of contents.
    pub fn section(&mut self, heading: impl Into<String>) {
        let heading = heading.into();
        self.sections.push(heading.clone());
        self.blocks.push(Block::Section { number: self.sections.len(), heading });
    }

    /// Begins a part of a section.
    pub fn subsection(&mut self, heading: impl Into<String>) {
        self.blocks.push(Block::Subsection(heading.into()));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Paragraph(text.into()));
    }

    /// Adds a remark beside the main text.
    pub fn note(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Note(text.into()));
    }

    /// Adds something that limits what the results say.
    pub fn warning(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Warning(text.into()));
    }

    /// Adds a picture. The caption stands below it; `alt` says what it shows to those who cannot
    /// see it.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] without `alt`; those of [`encode_png`].
    pub fn figure(
        &mut self,
        image: &RgbImage,
        caption: impl Into<String>,
        alt: impl Into<String>,
    ) -> Result<()> {
        let alt = alt.into();
        if alt.trim().is_empty() {
            return Err(Error::argument("alt", "is empty; say in words what the picture shows"));
        }
        let png = STANDARD.encode(encode_png(image)?);
        let caption = caption.into();
        self.blocks.push(Block::Figure { png, size: image.dimensions(), caption, alt });
        Ok(())
    }

    /// Adds a table with a caption above it. Columns of numbers are aligned at the right.
    pub fn table(&mut self, table: &Table, caption: impl Into<String>) {
        self.blocks.push(Block::Table { table: table.clone(), caption: caption.into() });
    }

    /// Adds a list of names and values.
    pub fn key_values<K, V>(&mut self, entries: impl IntoIterator<Item = (K, V)>)
    where
        K: Into<String>,
        V: Into<String>,
    {
        let entries = entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        self.blocks.push(Block::KeyValues(entries));
    }

    /// Adds text whose lines and spaces are kept, such as a configuration in JSON.
    pub fn preformatted(&mut self, caption: impl Into<String>, text: impl Into<String>) {
        self.blocks.push(Block::Preformatted { caption: caption.into(), text: text.into() });
    }

    /// Adds a line to the footer that says where the numbers come from: n, seed, preset, versions.
    pub fn provenance(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.provenance.push((name.into(), value.into()));
    }

    /// The whole file.
    pub fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (clean(&self.title)) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (clean(&self.title)) }
                        @if self.sections.len() >= 3 { (self.contents()) }
                        @for block in &self.blocks { (block.to_html()) }
                    }
                    @if !self.provenance.is_empty() {
                        footer {
                            h2 { "Provenance" }
                            (key_values(&self.provenance))
                        }
                    }
                }
            }
        };
        page.into_string()
    }

    /// Writes [`Report::to_html`] to a file, in one step.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, self.to_html().as_bytes())
    }

    fn contents(&self) -> Markup {
        html! {
            nav aria-label="Contents" {
                ol {
                    @for (index, heading) in self.sections.iter().enumerate() {
                        li { a href={ "#section-" (index + 1) } { (clean(heading)) } }
                    }
                }
            }
        }
    }
}

impl Block {
    fn to_html(&self) -> Markup {
        match self {
            Block::Section { number, heading } => html! {
                h2 id={ "section-" (number) } { (clean(heading)) }
            },
            Block::Subsection(heading) => html! { h3 { (clean(heading)) } },
            Block::Paragraph(text) => html! { p { (clean(text)) } },
            Block::Note(text) => html! { aside.note { (clean(text)) } },
            Block::Warning(text) => html! { aside.warning { strong { "Warning. " } (clean(text)) } },
            Block::Figure { png, size: (width, height), caption, alt } => html! {
                figure {
                    img src={ "data:image/png;base64," (png) } width=(width) height=(height)
                        alt=(clean(alt));
                    @if !caption.is_empty() { figcaption { (clean(caption)) } }
                }
            },
            Block::Table { table, caption } => table_html(table, caption),
            Block::KeyValues(entries) => key_values(entries),
            Block::Preformatted { caption, text } => html! {
                figure.text {
                    @if !caption.is_empty() { figcaption { (clean(caption)) } }
                    pre { (clean(text)) }
                }
            },
        }
    }
}

fn table_html(table: &Table, caption: &str) -> Markup {
    let class = |column: usize| table.is_numeric(column).then_some("number");
    html! {
        div.table {
            table {
                @if !caption.is_empty() { caption { (clean(caption)) } }
                thead {
                    tr {
                        @for (column, name) in table.columns().iter().enumerate() {
                            th scope="col" class=[class(column)] { (clean(name)) }
                        }
                    }
                }
                tbody {
                    @for row in table.rows() {
                        tr {
                            @for (column, cell) in row.iter().enumerate() {
                                td class=[class(column)] { (clean(&cell.shown())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn key_values(entries: &[(String, String)]) -> Markup {
    html! {
        dl {
            @for (name, value) in entries {
                dt { (clean(name)) }
                dd { (clean(value)) }
            }
        }
    }
}

/// The text without control characters, which HTML does not allow even escaped.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

const STYLE: &str = "
:root { --ground: #fff; --ink: #1f2328; --quiet: #59636e; --line: #d1d9e0; --soft: #f6f8fa;
  --link: #0b5cad; --note: #0b5cad; --warning: #b35900; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --ink: #e4e8ec; --quiet: #a2acb6; --line: #3a424b; --soft: #1d2228;
    --link: #7ab7ff; --note: #7ab7ff; --warning: #ffb35c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif; }
main, footer { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 0.5rem; }
p { max-width: 46rem; margin: 0.75rem 0; white-space: pre-line; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { margin: 1.25rem 0; padding: 0.5rem 1rem; background: var(--soft); border-radius: 6px; }
nav ol { margin: 0; padding-left: 1.5rem; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, caption { color: var(--quiet); font-size: 0.92rem; text-align: left; }
figcaption { margin-top: 0.5rem; max-width: 46rem; }
.text figcaption { margin: 0 0 0.35rem; }
.table { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink);
  font-size: 0.95rem; }
caption { padding-bottom: 0.5rem; }
th, td { padding: 0.35rem 0.85rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; }
tbody tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.25rem; margin: 1rem 0; }
dt { color: var(--quiet); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
aside { max-width: 46rem; margin: 1.25rem 0; padding: 0.6rem 1rem; background: var(--soft);
  border-left: 4px solid var(--note); border-radius: 0 4px 4px 0; white-space: pre-line; }
aside.warning { border-left-color: var(--warning); }
aside.warning strong { color: var(--warning); }
pre { margin: 0; padding: 0.9rem 1rem; background: var(--soft); border-radius: 6px; overflow-x: auto;
  font: 0.87rem/1.5 ui-monospace, 'SFMono-Regular', Menlo, Consolas, monospace; }
footer { color: var(--quiet); font-size: 0.92rem; }
footer h2 { font-size: 1rem; margin-top: 1rem; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.5rem; } }
@media print { :root { --ground: #fff; --ink: #000; } figure, .table, aside { break-inside: avoid; } }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cell;

    const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" \u{0}\u{7}";

    fn hostile() -> Report {
        let mut table = Table::new([HOSTILE, "n"]);
        table.push([Cell::from(HOSTILE), Cell::from(3)]).unwrap();
        let mut report = Report::new(HOSTILE);
        report.paragraph(HOSTILE);
        for _ in 0..3 {
            report.section(HOSTILE);
        }
        report.subsection(HOSTILE);
        report.note(HOSTILE);
        report.warning(HOSTILE);
        report.figure(&RgbImage::new(3, 2), HOSTILE, HOSTILE).unwrap();
        report.table(&table, HOSTILE);
        report.key_values([(HOSTILE, HOSTILE)]);
        report.preformatted(HOSTILE, HOSTILE);
        report.provenance(HOSTILE, HOSTILE);
        report
    }

    #[test]
    fn all_text_is_escaped() {
        let html = hostile().to_html();
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains(['\u{0}', '\u{7}']));
        assert!(!html.contains("& "), "ampersands are escaped");
        let escaped = "&lt;script&gt;alert('x')&lt;/script&gt; &amp; &quot;quotes&quot;";
        assert_eq!(html.matches(escaped).count(), 23);
    }

    #[test]
    fn the_file_stands_alone_and_is_the_same_each_time() {
        let html = hostile().to_html();
        assert_eq!(html, hostile().to_html());
        for outside in ["http:", "https:", "<link", "src=\"/", "url(", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        let start = html.find("base64,").unwrap() + "base64,".len();
        let data: String = html[start..].chars().take_while(|&c| c != '"').collect();
        let image = image::load_from_memory(&STANDARD.decode(data).unwrap()).unwrap();
        assert_eq!((image.width(), image.height()), (3, 2));
    }

    #[test]
    fn numbers_align_right_and_contents_need_three_sections() {
        let html = hostile().to_html();
        assert!(html.contains("<td class=\"number\">3</td>") && html.contains("<nav"));
        let mut short = Report::new("short");
        short.section("one");
        assert!(!short.to_html().contains("<nav") && !short.to_html().contains("<footer"));
    }

    #[test]
    fn figures_need_pixels_and_words() {
        let mut report = Report::new("r");
        let empty = report.figure(&RgbImage::new(0, 3), "", "words");
        assert!(matches!(empty, Err(Error::Empty { .. })));
        let silent = report.figure(&RgbImage::new(1, 1), "caption", " ");
        assert!(matches!(silent, Err(Error::Argument { what: "alt", .. })));
        assert!(!report.to_html().contains("<figure"));
    }

    #[test]
    fn the_report_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        hostile().save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), hostile().to_html());
    }
}
