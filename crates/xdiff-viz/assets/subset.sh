#!/bin/sh
# Makes NotoSans-subset.ttf from two fonts of the Noto family.
#
#   apt-get download fonts-noto-core && dpkg -x fonts-noto-core_*.deb noto
#   pip install fonttools
#   sh subset.sh noto/usr/share/fonts/truetype/noto
#
# Latin, Greek, combining accents, sub- and superscripts come from Noto Sans;
# arrows and mathematical signs, which it lacks, from Noto Sans Math.
set -eu
fonts=$1

text="U+0020-007E,U+00A0-017F,U+02C6,U+02DC,U+0300-0304,U+0307,U+0308,U+030C,\
U+0391-03C9,U+03D1,U+03D5,U+03F5,U+1FB0,U+1FB1,U+1D62-1D65,U+2010-2016,U+2018-201E,\
U+2020-2022,U+2026,U+2030,U+2032,U+2033,U+2070-208E,U+2090-209C,U+20AC,U+2C7C,U+FFFD"
signs="U+2102,U+2115,U+211D,U+2124,U+2190-2195,U+21A6,U+21D0,U+21D2,U+21D4,U+2200,\
U+2202,U+2203,U+2205-2209,U+220F,U+2211-2213,U+2218,U+221A,U+221D,U+221E,U+2225,\
U+2227-222B,U+223C,U+2243,U+2245,U+2248,U+2260,U+2261,U+2264,U+2265,U+226A,U+226B,\
U+2282-2287,U+2295,U+2297,U+2299,U+22A4,U+22A5,U+22C5,U+2308-230B,U+25A1,U+27E8,U+27E9"
options="--no-hinting --layout-features= --notdef-outline --no-recalc-timestamp
--drop-tables+=GDEF,GPOS,GSUB,MATH,DSIG,gasp --name-IDs=0,1,2,3,4,5,6,13,14"

work=$(mktemp -d)
pyftsubset "$fonts/NotoSans-Regular.ttf" --unicodes="$text" $options --output-file="$work/text.ttf"
pyftsubset "$fonts/NotoSansMath-Regular.ttf" --unicodes="$signs" $options --output-file="$work/signs.ttf"
pyftmerge --output-file="$work/merged.ttf" "$work/text.ttf" "$work/signs.ttf"
# The merged font takes the deepest descender of the two; keep that of Noto Sans.
python3 - "$work/merged.ttf" NotoSans-subset.ttf <<'PYTHON'
import sys
from fontTools.ttLib import TTFont
font = TTFont(sys.argv[1], recalcTimestamp=False)
font["hhea"].descent = -293
font.save(sys.argv[2])
PYTHON
rm -r "$work"
