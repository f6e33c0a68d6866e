//! Transfer syntaxes: how a file encodes its elements and its pixels (DICOM PS3.5, section 10 and annex A).

use std::fmt;

use super::fault::DicomFault;

/// How a file encodes its elements and its pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferSyntax {
    /// 1.2.840.10008.1.2
    ImplicitLittleEndian,
    /// 1.2.840.10008.1.2.1
    ExplicitLittleEndian,
    /// 1.2.840.10008.1.2.1.98: pixels in fragments, but not compressed.
    EncapsulatedUncompressed,
    /// 1.2.840.10008.1.2.1.99
    Deflated,
    /// 1.2.840.10008.1.2.2
    ExplicitBigEndian,
    /// 1.2.840.10008.1.2.4.50, 8 bits, lossy.
    JpegBaseline,
    /// 1.2.840.10008.1.2.4.51, 8 or 12 bits, lossy. With 12 bits it is decoded where it is grey.
    JpegExtended,
    /// 1.2.840.10008.1.2.4.57, process 14.
    JpegLossless,
    /// 1.2.840.10008.1.2.4.70, process 14 with selection value 1.
    JpegLosslessFirstOrder,
    /// 1.2.840.10008.1.2.4.80
    JpegLsLossless,
    /// 1.2.840.10008.1.2.4.81, near-lossless.
    JpegLsNearLossless,
    /// 1.2.840.10008.1.2.4.90
    Jpeg2000Lossless,
    /// 1.2.840.10008.1.2.4.91
    Jpeg2000,
    /// 1.2.840.10008.1.2.5
    Rle,
    /// Any other, by its identifier: the header is read, the pixels are not.
    Other(String),
}

const KNOWN: [(&str, &str, TransferSyntax); 14] = [
    ("1.2.840.10008.1.2", "Implicit VR Little Endian", TransferSyntax::ImplicitLittleEndian),
    ("1.2.840.10008.1.2.1", "Explicit VR Little Endian", TransferSyntax::ExplicitLittleEndian),
    (
        "1.2.840.10008.1.2.1.98",
        "Encapsulated Uncompressed Explicit VR Little Endian",
        TransferSyntax::EncapsulatedUncompressed,
    ),
    ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", TransferSyntax::Deflated),
    ("1.2.840.10008.1.2.2", "Explicit VR Big Endian", TransferSyntax::ExplicitBigEndian),
    ("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", TransferSyntax::JpegBaseline),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 and 4)", TransferSyntax::JpegExtended),
    ("1.2.840.10008.1.2.4.57", "JPEG Lossless (Process 14)", TransferSyntax::JpegLossless),
    (
        "1.2.840.10008.1.2.4.70",
        "JPEG Lossless (Process 14, Selection Value 1)",
        TransferSyntax::JpegLosslessFirstOrder,
    ),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless", TransferSyntax::JpegLsLossless),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless", TransferSyntax::JpegLsNearLossless),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless", TransferSyntax::Jpeg2000Lossless),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000", TransferSyntax::Jpeg2000),
    ("1.2.840.10008.1.2.5", "RLE Lossless", TransferSyntax::Rle),
];

/// Syntaxes that are told by name when they are refused.
const REFUSED: [(&str, &str); 12] = [
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Lossless"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2"),
    ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
    ("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    ("1.2.840.10008.1.2.4.201", "HTJ2K Lossless"),
    ("1.2.840.10008.1.2.4.202", "HTJ2K Lossless RPCL"),
    ("1.2.840.10008.1.2.4.203", "HTJ2K"),
    ("1.2.840.10008.1.2.4.100", "MPEG-2 Main Profile"),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame"),
];

impl TransferSyntax {
    /// The syntax of an identifier.
    pub fn from_uid(uid: &str) -> Self {
        let known = KNOWN.iter().find(|(id, ..)| *id == uid);
        known.map_or_else(|| Self::Other(uid.to_string()), |(_, _, syntax)| syntax.clone())
    }

    /// The identifier.
    pub fn uid(&self) -> &str {
        match self {
            Self::Other(uid) => uid,
            _ => self.row().map_or("", |(uid, ..)| uid),
        }
    }

    /// The name in the standard.
    pub fn name(&self) -> &str {
        match self {
            Self::Other(uid) => REFUSED.iter().find(|(id, _)| id == uid).map_or("unknown", |(_, name)| name),
            _ => self.row().map_or("", |(_, name, _)| name),
        }
    }

    fn row(&self) -> Option<&'static (&'static str, &'static str, TransferSyntax)> {
        KNOWN.iter().find(|(_, _, syntax)| syntax == self)
    }

    /// Whether elements have no value representation of their own.
    pub(super) fn is_implicit(&self) -> bool {
        *self == Self::ImplicitLittleEndian
    }

    pub(super) fn is_big_endian(&self) -> bool {
        *self == Self::ExplicitBigEndian
    }

    /// That the pixels of this syntax are not decoded.
    pub(super) fn refused(&self, reason: &'static str) -> DicomFault {
        DicomFault::TransferSyntax {
            name: self.name().to_string(),
            uid: self.uid().to_string(),
            reason,
            hint: match self {
                Self::JpegExtended => "convert the file with `dcmdjpeg` (DCMTK) or `gdcmconv --raw` (GDCM)",
                _ => "convert the file with `gdcmconv --raw` (GDCM) or `dcmconv` (DCMTK)",
            },
        }
    }
}

impl fmt::Display for TransferSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.uid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_names_lead_to_each_other() {
        for (uid, name, syntax) in &KNOWN {
            assert_eq!(&TransferSyntax::from_uid(uid), syntax);
            assert_eq!((syntax.uid(), syntax.name()), (*uid, *name));
        }
        let mpeg = TransferSyntax::from_uid("1.2.840.10008.1.2.4.100");
        let said = mpeg.refused("is video").to_string();
        assert!(said.contains("MPEG-2") && said.contains("1.2.840.10008.1.2.4.100"), "{said}");
        assert_eq!(TransferSyntax::from_uid("1.2.3").to_string(), "unknown (1.2.3)");
    }
}
