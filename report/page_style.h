// page_style.h: the style sheet of the report page, light or dark as the browser wants it. The
// colours of runs and datasets are --c0 .. --c7; classes c, f and b with their number use them as
// stroke, fill and background.
#ifndef REPORT_PAGE_STYLE_H
#define REPORT_PAGE_STYLE_H

#include "report/charts.h"

// clang-format off
static const char PAGE_STYLE[] =
    ":root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2128;--dim:#5c6670;"
    "--grid:#e3e7eb;--axis:#9aa4ae;--c0:#0b69c7;--c1:#d9480f;--c2:#2b8a3e;--c3:#9c36b5;"
    "--c4:#b08900;--c5:#0c8599;--c6:#c2255c;--c7:#5f3dc4}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2126;--ink:#e8ebee;"
    "--dim:#9aa4ae;--grid:#2e343b;--axis:#6b7680;--c0:#5aa9f2;--c1:#ff8a57;--c2:#69c77b;"
    "--c3:#d78ae8;--c4:#e3c04a;--c5:#4fc3d4;--c6:#f2799f;--c7:#a592f5}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:1360px;padding:16px;background:var(--bg);color:var(--ink);"
    "font:15px/1.45 system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif}\n"
    "h1{font-size:22px;margin:4px 0 2px}\n"
    "h2{font-size:17px;margin:26px 0 8px}\n"
    "p{margin:4px 0 10px;color:var(--dim)}\n"
    ".runs{display:inline-block;margin:4px 16px 4px 0;font-weight:600;overflow-wrap:anywhere;"
    "cursor:pointer}\n"
    "input{margin:0 6px 0 0;vertical-align:middle}\n"
    ".charts{display:grid;"
    "grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));gap:14px;"
    "margin-top:10px}\n"
    ".charts>div{min-width:0}\n"
    "figure{margin:0;background:var(--card);border:1px solid var(--grid);border-radius:8px;"
    "padding:10px 12px;min-width:0}\n"
    "figcaption{font-weight:600;overflow-wrap:anywhere}\n"
    "small{font-weight:400;color:var(--dim);font-size:13px}\n"
    "svg{display:block;width:100%;height:auto}\n"
    "svg text{font-size:14px;fill:var(--dim);font-variant-numeric:tabular-nums}\n"
    "svg path,svg line{fill:none;stroke-linejoin:round;stroke-linecap:round;stroke-width:1.8}\n"
    "svg .grid{stroke:var(--grid);stroke-width:1}\n"
    "svg .axis,svg .tick{stroke:var(--axis);stroke-width:1}\n"
    "svg .raw{stroke-width:1;opacity:.35}\n"
    "svg .smooth{stroke-width:2.2}\n"
    "svg .restart{stroke-width:1.2;stroke-dasharray:2 5;opacity:.9}\n"
    "svg .skipped,svg .area{stroke:none}\n"
    "svg .area{opacity:.75}\n"
    "svg .weight{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:5 4}\n"
    ".dash1{stroke-dasharray:7 4}\n"
    ".dash2{stroke-dasharray:2 4}\n"
    ".dash3{stroke-dasharray:9 3 2 3}\n"
    ".keys{list-style:none;margin:4px 0 0;padding:0;font-size:13px;display:flex;"
    "flex-wrap:wrap;gap:2px 14px}\n"
    ".keys li{overflow-wrap:anywhere}\n"
    "i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;"
    "vertical-align:middle}\n"
    "i.dashed{opacity:.6}\n"
    ".swatch{height:11px;width:11px}\n"
    ".scroll{overflow-x:auto;background:var(--card);border:1px solid var(--grid);"
    "border-radius:8px}\n"
    "table{border-collapse:collapse;font-size:13px;width:100%}\n"
    "th,td{padding:4px 10px;text-align:left;border-bottom:1px solid var(--grid);"
    "vertical-align:top}\n"
    "tr:last-child>*{border-bottom:0}\n"
    "th{font-weight:600;white-space:nowrap}\n"
    "td{font-variant-numeric:tabular-nums}\n"
    ".n{text-align:right;white-space:nowrap}\n"
    ".differs td{font-weight:600}\n"
    ".hash{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:12px}\n"
    "@media (max-width:620px){body{padding:10px}figure{padding:8px 6px}svg text{"
    "font-size:21px}}\n";
// clang-format on

static inline void page_style(TextBuffer *w) {
    text_put(w, PAGE_STYLE, sizeof PAGE_STYLE - 1);
    for (int c = 0; c < COLORS; c++) {
        text_format(w, "svg .c%d{stroke:var(--c%d)}svg .f%d{fill:var(--c%d)}", c, c, c, c);
        text_format(w, ".b%d{background:var(--c%d)}\n", c, c);
    }
}

#endif
