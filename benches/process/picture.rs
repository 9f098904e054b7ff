//! The picture of the README: start to first answer, as bars.

use crate::report::Report;
use std::fmt::Write as _;

const ROWS: [(&str, &str); 4] = [
    ("guide", "Guide's handler, Node"),
    ("guide-bundled", "Guide's handler, bundled"),
    ("redirect-edge", "redirect at the edge"),
    ("redirect-native", "redirect, native"),
];
const WORLDS: [&str; 3] = ["1 flag", "1000 flags", "10000 flags"];
const LEFT: f64 = 200.0;
const WIDTH: f64 = 400.0;

/// An SVG that fits light and dark pages.
pub(crate) fn of(report: &Report) -> String {
    let mut bars = String::new();
    let mut y = 44;
    for world in WORLDS {
        let median = |subject| report.cold(subject, world).map(|row| row.wall_ms.median);
        let longest = ROWS.iter().filter_map(|(subject, _)| median(subject)).fold(1.0, f64::max);
        let title = world.replace("000 ", ",000 ");
        // Writing to a String cannot fail.
        let _ = writeln!(bars, r#"<text x="10" y="{y}" class="world">{title} in the environment</text>"#);
        y += 12;
        for (subject, label) in ROWS {
            let Some(median) = median(subject) else { continue };
            let (width, text_y, label_x) = (WIDTH * median / longest, y + 14, LEFT - 8.0);
            let digits = usize::from(median < 10.0);
            let class = if subject.starts_with("redirect") { "ours" } else { "guide" };
            let _ = write!(
                bars,
                r#"<text x="{label_x}" y="{text_y}" class="label">{label}</text>
<rect x="{LEFT}" y="{y}" width="{width:.1}" height="18" rx="3" class="{class}"/>
<text x="{:.1}" y="{text_y}">{median:.digits$} ms</text>
"#,
                LEFT + width + 8.0,
            );
            y += 23;
        }
        y += 22;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {y}" role="img" aria-label="Process start to first answer">
<style>
svg {{ background: #fff; font: 13px system-ui, sans-serif; }}
text {{ fill: #1f2933; }}
.title {{ font-size: 16px; font-weight: 600; }}
.world {{ font-weight: 600; }}
.label {{ text-anchor: end; }}
.ours {{ fill: #0b7285; }}
.guide {{ fill: #adb5bd; }}
</style>
<rect width="680" height="{y}" fill="#fff"/>
<text x="10" y="22" class="title">Process start to first answer (median; each group has its own scale)</text>
{bars}</svg>
"##
    )
}
