//! The weight of a folder as a picture: every rectangle as large as what it stands for.
//!
//! Rectangles are laid in rows along the shorter side, and a row gets one more as long as that
//! makes them more like squares.

use std::fmt::Write as _;

use indicatif::BinaryBytes;

use super::Size;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 800.0;
/// Room for the name of a group.
const TITLE: f64 = 18.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Size {
    /// The weight as a treemap in SVG: a group for each task, one for what tasks share, and one
    /// for what belongs to none.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut groups: Vec<(String, Vec<(&str, u64)>)> = Vec::new();
        for task in &self.tasks {
            groups.push((format!("{} {}", task.pid, task.name), task.own.clone()));
        }
        groups.push(("shared".to_owned(), self.common.clone()));
        let told: u64 = groups
            .iter()
            .flat_map(|(_, parts)| parts)
            .map(|(_, bytes)| bytes)
            .sum();
        let rest = self.bytes().saturating_sub(told);
        groups.push(("the folder".to_owned(), vec![("of all tasks", rest)]));
        groups.retain(|(_, parts)| weight(parts) > 0);
        groups.sort_by_key(|(_, parts)| std::cmp::Reverse(weight(parts)));

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{}: {}</title>\n",
            escaped(&self.path.to_string_lossy()),
            BinaryBytes(self.bytes())
        );
        let whole = Rect {
            x: 0.0,
            y: 0.0,
            width: WIDTH,
            height: HEIGHT,
        };
        let weights: Vec<u64> = groups.iter().map(|(_, parts)| weight(parts)).collect();
        for (number, (rect, (name, parts))) in
            laid_out(whole, &weights).iter().zip(&groups).enumerate()
        {
            // Hues a golden angle apart differ most.
            let hue = (number * 137) % 360;
            group(&mut svg, *rect, name, parts, hue);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn weight(parts: &[(&str, u64)]) -> u64 {
    parts.iter().map(|(_, bytes)| bytes).sum()
}

fn group(svg: &mut String, rect: Rect, name: &str, parts: &[(&str, u64)], hue: usize) {
    let name = escaped(name);
    let all = BinaryBytes(weight(parts));
    let _ = writeln!(
        svg,
        "<g><title>{name}: {all}</title><rect {} fill=\"hsl({hue},45%,75%)\" stroke=\"white\"/>",
        sides(rect)
    );
    let has_title = rect.height > 3.0 * TITLE && rect.width > 60.0;
    if has_title {
        let _ = writeln!(svg, "<text {}>{name} {all}</text>", place(rect, 14.0));
    }
    let title = if has_title { TITLE } else { 0.0 };
    let inside = Rect {
        x: rect.x + 1.0,
        y: rect.y + 1.0 + title,
        width: (rect.width - 2.0).max(0.0),
        height: (rect.height - 2.0 - title).max(0.0),
    };
    let mut parts: Vec<(&str, u64)> = parts
        .iter()
        .copied()
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let weights: Vec<u64> = parts.iter().map(|(_, bytes)| *bytes).collect();
    for (rect, (what, bytes)) in laid_out(inside, &weights).iter().zip(&parts) {
        let bytes = BinaryBytes(*bytes);
        let _ = writeln!(
            svg,
            "<g><title>{name}, {what}: {bytes}</title><rect {} fill=\"hsl({hue},55%,60%)\" \
             stroke=\"white\"/>",
            sides(*rect)
        );
        if rect.width > 90.0 && rect.height > TITLE {
            let _ = writeln!(svg, "<text {}>{what} {bytes}</text>", place(*rect, 14.0));
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</g>\n");
}

fn sides(rect: Rect) -> String {
    format!(
        "x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"",
        rect.x, rect.y, rect.width, rect.height
    )
}

fn place(rect: Rect, down: f64) -> String {
    format!("x=\"{:.1}\" y=\"{:.1}\"", rect.x + 4.0, rect.y + down)
}

/// Divides a rectangle among weights, the largest first.
fn laid_out(mut rect: Rect, weights: &[u64]) -> Vec<Rect> {
    #[expect(clippy::cast_precision_loss, reason = "a picture is not that exact")]
    let weights: Vec<f64> = weights.iter().map(|weight| *weight as f64).collect();
    let whole: f64 = weights.iter().sum();
    if whole <= 0.0 {
        return Vec::new();
    }
    let scale = rect.width * rect.height / whole;
    let areas: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut placed = Vec::with_capacity(areas.len());
    let mut rest = areas.as_slice();
    while !rest.is_empty() {
        let side = rect.width.min(rect.height);
        let mut count = 1;
        while count < rest.len() && worst(&rest[..=count], side) <= worst(&rest[..count], side) {
            count += 1;
        }
        let (row, others) = rest.split_at(count);
        let thickness = if side > 0.0 {
            row.iter().sum::<f64>() / side
        } else {
            0.0
        };
        let mut along = 0.0;
        for area in row {
            let length = if thickness > 0.0 {
                area / thickness
            } else {
                0.0
            };
            placed.push(if rect.width >= rect.height {
                Rect {
                    x: rect.x,
                    y: rect.y + along,
                    width: thickness,
                    height: length,
                }
            } else {
                Rect {
                    x: rect.x + along,
                    y: rect.y,
                    width: length,
                    height: thickness,
                }
            });
            along += length;
        }
        if rect.width >= rect.height {
            rect.x += thickness;
            rect.width = (rect.width - thickness).max(0.0);
        } else {
            rect.y += thickness;
            rect.height = (rect.height - thickness).max(0.0);
        }
        rest = others;
    }
    placed
}

/// How far from a square the worst rectangle of a row is.
fn worst(row: &[f64], side: f64) -> f64 {
    let sum: f64 = row.iter().sum();
    let thickness = sum / side;
    let ratios = row.iter().map(|area| {
        let length = area / thickness;
        (length / thickness).max(thickness / length)
    });
    ratios.fold(0.0, f64::max)
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_as_the_weights() {
        let whole = Rect {
            x: 0.0,
            y: 0.0,
            width: 60.0,
            height: 40.0,
        };
        let weights = [600_u32, 600, 400, 300, 200, 200, 100];
        let counts = weights.map(u64::from);
        let rects = laid_out(whole, &counts);
        assert_eq!(rects.len(), weights.len());
        for (rect, weight) in rects.iter().zip(weights) {
            assert!(
                (rect.width * rect.height - f64::from(weight)).abs() < 1e-6,
                "{rect:?}"
            );
            assert!(
                rect.x >= 0.0 && rect.x + rect.width <= 60.0 + 1e-6,
                "{rect:?}"
            );
            assert!(
                rect.y >= 0.0 && rect.y + rect.height <= 40.0 + 1e-6,
                "{rect:?}"
            );
        }
        assert!(laid_out(whole, &[0, 0]).is_empty());
    }
}
