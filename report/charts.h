// charts.h: charts as inline SVG of 640 x 300 units: lines over a linear or logarithmic axis, and
// stacked shares. Colours and line styles are classes that the page's style sheet defines.
#ifndef REPORT_CHARTS_H
#define REPORT_CHARTS_H

#include "report/curves.h"
#include "report/format.h"

enum {
    CHART_WIDTH = 640,
    CHART_HEIGHT = 300,
    CHART_LEFT = 84,
    CHART_RIGHT = CHART_WIDTH - 30,
    CHART_TOP = 14,
    CHART_BOTTOM = CHART_HEIGHT - 52
};
enum { COLORS = 8, TICKS = 12 };

typedef struct {
    double low, high; // values at the two ends
    double from, to;  // positions of the ends in the drawing
    bool log;
} Axis;

static inline double axis_at_(const Axis *a, double value) {
    double share = a->log ? log(value / a->low) / log(a->high / a->low)
                          : (value - a->low) / (a->high - a->low);
    return a->from + share * (a->to - a->from);
}

// Smallest of 1, 2, 5 times a power of ten that is at least `least`.
static inline double nice_step_(double least) {
    double power = pow(10, floor(log10(least)));
    if (least <= power * 1.0001) {
        return power;
    }
    return least <= 2 * power ? 2 * power : least <= 5 * power ? 5 * power : 10 * power;
}

// Ticks at round values, at least `gap` apart in the drawing. Returns how many, at most TICKS.
static inline size_t axis_ticks_(const Axis *a, double gap, double ticks[TICKS]) {
    double span = fabs(a->to - a->from), step = nice_step_((a->high - a->low) * gap / span);
    size_t n = 0;
    if (!a->log || a->high / a->low < 4) {
        for (double k = ceil(a->low / step - 1e-9); k * step <= a->high + 1e-9 * step && n < TICKS;
             k++) {
            double at = k == 0 ? 0 : k * step;
            if (n == 0 || fabs(axis_at_(a, at) - axis_at_(a, ticks[n - 1])) >= gap) {
                ticks[n++] = at;
            }
        }
        return n;
    }
    // Powers of ten first, then what fits between them.
    static const double digits[] = {1, 5, 2, 3, 7};
    double decades = log10(a->high / a->low);
    int every = (int)ceil(decades * gap / span);
    for (size_t d = 0; d < sizeof digits / sizeof *digits && (d == 0 || every == 1); d++) {
        for (double k = floor(log10(a->low)); k <= log10(a->high) && n < TICKS; k++) {
            double at = digits[d] * pow(10, k);
            bool fits = at >= a->low && at <= a->high && fmod(fabs(k), every) == 0;
            for (size_t i = 0; i < n && fits; i++) {
                fits = fabs(axis_at_(a, at) - axis_at_(a, ticks[i])) >= gap;
            }
            if (fits) {
                ticks[n++] = at;
            }
        }
    }
    return n;
}

typedef struct {
    const char *name;
    const Curve *curve;
    size_t run;                      // number of the run, for the check boxes of the page
    size_t color;                    // from COLORS on with dashes
    bool smooth;                     // a thin line of the values under one of their local mean
    const Marks *restarts, *skipped; // marked in the run's colour; NULL for none
} Series;

typedef struct {
    const char *id, *title, *unit, *x_label;
    bool log_y, from_zero; // the y axis is logarithmic; begins at 0
    const Series *series;
    size_t count;
} Chart;

// Fits the axes to all series; false if there is no point. Values that a logarithmic axis cannot
// show are left out.
static inline bool chart_ranges_(const Chart *c, Axis *x, Axis *y) {
    *x = (Axis){INFINITY, -INFINITY, CHART_LEFT, CHART_RIGHT, false};
    *y = (Axis){INFINITY, -INFINITY, CHART_BOTTOM, CHART_TOP, c->log_y};
    for (size_t s = 0; s < c->count; s++) {
        const Curve *curve = c->series[s].curve;
        for (size_t i = 0; i < curve->count; i++) {
            const CurveBucket *b = &curve->buckets[i];
            y->low = c->log_y && b->low.y <= 0 ? y->low : fmin(y->low, b->low.y);
            y->high = fmax(y->high, b->high.y);
        }
        if (curve->points) {
            x->low = fmin(x->low, curve->first.x);
            x->high = fmax(x->high, curve->last.x);
        }
    }
    if (!(x->low <= x->high)) {
        return false;
    }
    y->log &= y->low > 0 && y->low < INFINITY; // all values 0: a linear axis
    y->low = y->low == INFINITY ? 0 : y->low;
    double pad = 0.04 * (y->high - y->low);
    pad = pad > 1e-4 * fabs(y->high) ? pad : 1e-4 * fabs(y->high) + 1e-12;
    if (y->log) {
        double ratio = fmax(pow(y->high / y->low, 0.04), 1.001);
        y->low /= ratio;
        y->high *= ratio;
    } else {
        y->low = c->from_zero && y->low >= 0 ? 0 : y->low - pad;
        y->high += pad;
    }
    x->high = x->high > x->low ? x->high : x->low + 1;
    return true;
}

static inline void chart_axes_(TextBuffer *w, const char *x_label, const Axis *x, const Axis *y) {
    double ticks[TICKS];
    size_t n = axis_ticks_(y, 34, ticks);
    for (size_t i = 0; i < n; i++) {
        double at = axis_at_(y, ticks[i]);
        text_format(w,
                    "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text "
                    "x=\"%d\" y=\"%.1f\" "
                    "text-anchor=\"end\">%s</text>\n",
                    CHART_LEFT, CHART_RIGHT, at, at, CHART_LEFT - 8, at + 5,
                    number_short(ticks[i]).text);
    }
    n = axis_ticks_(x, 96, ticks);
    for (size_t i = 0; i < n; i++) {
        double at = axis_at_(x, ticks[i]);
        text_format(w,
                    "<line class=\"tick\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text "
                    "x=\"%.1f\" y=\"%d\" "
                    "text-anchor=\"middle\">%s</text>\n",
                    at, at, CHART_BOTTOM, CHART_BOTTOM + 5, at, CHART_BOTTOM + 22,
                    number_short(ticks[i]).text);
    }
    text_format(w,
                "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/><text "
                "class=\"label\" x=\"%d\" y=\"%d\" "
                "text-anchor=\"end\">%s</text>\n",
                CHART_LEFT, CHART_RIGHT, CHART_BOTTOM, CHART_BOTTOM, CHART_RIGHT, CHART_HEIGHT - 8,
                x_label);
}

// The d attribute of a path through n points; a value that a logarithmic axis cannot show
// interrupts the line. A single point becomes a short visible stroke.
static inline void chart_path_(TextBuffer *w, const Axis *ax, const Axis *ay,
                               const CurvePoint *points, size_t n) {
    char command = 'M';
    for (size_t i = 0; i < n; i++) {
        if (ay->log && points[i].y <= 0) {
            command = 'M';
            continue;
        }
        text_format(w, "%c%.1f %.1f", command, axis_at_(ax, points[i].x),
                    axis_at_(ay, points[i].y));
        command = 'L';
    }
    if (n == 1) {
        text_format(w, "h4");
    }
}

static inline void chart_series_(TextBuffer *w, const Series *s, const Axis *ax, const Axis *ay) {
    static const char *dashes[] = {"", " dash1", " dash2", " dash3"};
    const char *dash = dashes[s->color / COLORS % 4];
    CurvePoint points[CURVE_LINE_POINTS];
    bool smooth = s->smooth && s->curve->count > 20;
    text_format(
        w, "<path class=\"run%zu c%zu%s%s\" data-points=\"%zu\" data-last=\"%.17g %.17g\" d=\"",
        s->run, s->color % COLORS, dash, smooth ? " raw" : "", s->curve->points, s->curve->last.x,
        s->curve->last.y);
    chart_path_(w, ax, ay, points, curve_line(s->curve, points));
    text_format(w, "\"/>\n");
    if (smooth) {
        text_format(w, "<path class=\"run%zu c%zu%s smooth\" d=\"", s->run, s->color % COLORS,
                    dash);
        chart_path_(w, ax, ay, points, curve_smooth(s->curve, points));
        text_format(w, "\"/>\n");
    }
}

static inline double mark_at_(const Marks *m, size_t i, const Axis *ax) {
    return axis_at_(ax, fmax(ax->low, fmin(ax->high, m->x[i])));
}

static inline void chart_restarts_(TextBuffer *w, const Series *s, const Axis *ax) {
    for (size_t i = 0; s->restarts && i < s->restarts->count && i < MARKS_KEPT; i++) {
        double at = mark_at_(s->restarts, i, ax);
        text_format(w,
                    "<line class=\"restart run%zu c%zu\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" "
                    "y2=\"%d\"><title>",
                    s->run, s->color % COLORS, at, at, CHART_TOP, CHART_BOTTOM);
        text_put_html(w, s->name);
        text_format(w, ": resumed after step %zu</title></line>\n", s->restarts->steps[i]);
    }
}

static inline void chart_skipped_(TextBuffer *w, const Series *s, const Axis *ax) {
    for (size_t i = 0; s->skipped && i < s->skipped->count && i < MARKS_KEPT; i++) {
        text_format(w, "<path class=\"skipped run%zu f%zu\" d=\"M%.1f %dl5 -9h-10z\"><title>",
                    s->run, s->color % COLORS, mark_at_(s->skipped, i, ax), CHART_TOP + 9);
        text_put_html(w, s->name);
        text_format(w, ": step %zu skipped</title></path>\n", s->skipped->steps[i]);
    }
}

static inline void chart_begin_(TextBuffer *w, const char *id, const char *title,
                                const char *unit) {
    text_format(w, "<figure id=\"%s\">", id);
    html_between(w, "<figcaption>", title, "");
    html_between(w, " <small>", unit, "</small></figcaption>\n");
}

static inline void chart_svg_(TextBuffer *w, const char *id, const char *title) {
    text_format(w,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
                "aria-labelledby=\"%s-t %s-d\"><title id=\"%s-t\">",
                CHART_WIDTH, CHART_HEIGHT, id, id, id);
    text_put_html(w, title);
    text_format(w, "</title><desc id=\"%s-d\">", id);
}

// The legend under a chart's title: colour and name of each series.
static inline void chart_keys_(TextBuffer *w, const Series *series, size_t count) {
    text_format(w, "<ul class=\"keys\">");
    for (size_t s = 0; s < count; s++) {
        text_format(w, "<li><i class=\"b%zu%s\"></i>", series[s].color % COLORS,
                    series[s].color >= COLORS ? " dashed" : "");
        html_between(w, "", series[s].name, "</li>");
    }
    text_format(w, "</ul>\n");
}

// Draws a chart of lines; nothing if there is no point. `keys` adds a legend.
static inline void chart_write(TextBuffer *w, const Chart *c, bool keys) {
    Axis x, y;
    if (!chart_ranges_(c, &x, &y)) {
        return;
    }
    chart_begin_(w, c->id, c->title, c->unit);
    if (keys) {
        chart_keys_(w, c->series, c->count);
    }
    chart_svg_(w, c->id, c->title);
    for (size_t s = 0; s < c->count; s++) {
        const Curve *curve = c->series[s].curve;
        if (curve->points) {
            text_put_html(w, c->series[s].name);
            text_format(w, ": from %s at %s to %s at %s. ", number_short(curve->first.y).text,
                        number_short(curve->first.x).text, number_short(curve->last.y).text,
                        number_short(curve->last.x).text);
        }
    }
    text_format(w, "</desc>\n");
    chart_axes_(w, c->x_label, &x, &y);
    for (size_t s = 0; s < c->count; s++) {
        if (c->series[s].curve->points) {
            chart_series_(w, &c->series[s], &x, &y);
        }
    }
    for (size_t s = 0; s < c->count; s++) {
        chart_restarts_(w, &c->series[s], &x);
        chart_skipped_(w, &c->series[s], &x);
    }
    text_format(w, "</svg></figure>\n");
}

// ------------------------------------------------------------------------------------------------
// Stacked shares

// Curves that are drawn as their shares of the sum, under dashed lines where the weights would have
// them. All curves have the same x.
typedef struct {
    const char *id, *title, *x_label;
    const Curve *curves;
    char *const *names;
    const double *weights; // not negative
    size_t count;
    size_t run; // number of the run
} Shares;

// The largest curves have bands of their own, from the bottom; beyond COLORS - 1 they share one.
typedef struct {
    size_t points, bands;
    size_t order[COLORS]; // (bands) curves, the largest last value first

    // (points) x in the drawing, sum, and ends of the current band
    double x[CURVE_BUCKETS], total[CURVE_BUCKETS], lower[CURVE_BUCKETS], upper[CURVE_BUCKETS];
} SharesLayout_;

static inline void shares_layout_(SharesLayout_ *l, const Shares *s, const Axis *ax) {
    *l = (SharesLayout_){.points = s->curves[0].count};
    for (size_t c = 0; c < s->count; c++) {
        size_t at = l->bands; // insertion sort
        l->bands += l->bands < COLORS;
        for (; at > 0 && s->curves[l->order[at - 1]].last.y < s->curves[c].last.y; at--) {
            if (at < COLORS) {
                l->order[at] = l->order[at - 1];
            }
        }
        if (at < COLORS) {
            l->order[at] = c;
        }
        for (size_t i = 0; i < l->points; i++) {
            l->total[i] += s->curves[c].buckets[i].high.y;
        }
    }
    for (size_t i = 0; i < l->points; i++) {
        l->x[i] = axis_at_(ax, s->curves[0].buckets[i].high.x);
    }
}

// The area of a band: its upper edge from left to right, then its lower edge back.
static inline void shares_band_(TextBuffer *w, const Shares *s, SharesLayout_ *l, size_t band,
                                const Axis *ay) {
    const Curve *curve = &s->curves[l->order[band]];
    for (size_t i = 0; i < l->points; i++) {
        double share = l->total[i] > 0 ? 100 * curve->buckets[i].high.y / l->total[i] : 0;
        l->lower[i] = l->upper[i];
        l->upper[i] = band + 1 == l->bands ? 100 : l->lower[i] + share;
    }
    text_format(w, "<path class=\"area f%zu\" data-last=\"%.17g\" d=\"", band, curve->last.y);
    for (size_t i = 0; i < l->points; i++) {
        text_format(w, "%c%.1f %.1f", i ? 'L' : 'M', l->x[i], axis_at_(ay, l->upper[i]));
    }
    for (size_t i = l->points; i-- > 0;) {
        text_format(w, "L%.1f %.1f", l->x[i], axis_at_(ay, l->lower[i]));
    }
    text_format(w, "z\"/>\n");
}

// The lines between the bands by the weights.
static inline void shares_weights_(TextBuffer *w, const Shares *s, const SharesLayout_ *l,
                                   const Axis *ay) {
    double sum = 0, below = 0;
    for (size_t c = 0; c < s->count; c++) {
        sum += s->weights[c];
    }
    for (size_t band = 0; band + 1 < l->bands && sum > 0; band++) {
        below += s->weights[l->order[band]] / sum;
        double at = axis_at_(ay, 100 * fmin(1, below));
        text_format(w, "<line class=\"weight\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                    CHART_LEFT, CHART_RIGHT, at, at);
    }
}

// Draws the shares; nothing if there is no point.
static inline void chart_shares(TextBuffer *w, const Shares *s) {
    Series keys[COLORS];
    SharesLayout_ l;
    if (s->count == 0 || s->curves[0].count == 0) {
        return;
    }
    Axis ax = {s->curves[0].buckets[0].high.x, s->curves[0].last.x, CHART_LEFT, CHART_RIGHT, false};
    Axis ay = {0, 100, CHART_BOTTOM, CHART_TOP, false};
    ax.high = ax.high > ax.low ? ax.high : ax.low + 1;
    shares_layout_(&l, s, &ax);

    text_format(w, "<div class=\"run%zu\">", s->run);
    chart_begin_(w, s->id, s->title, "% of samples read so far; dashed: by weight");
    for (size_t b = 0; b < l.bands; b++) {
        bool rest = b + 1 == l.bands && s->count > l.bands;
        keys[b] = (Series){.name = rest ? "all others" : s->names[l.order[b]], .color = b};
    }
    chart_keys_(w, keys, l.bands);
    chart_svg_(w, s->id, s->title);
    text_format(w, "Share of each dataset in the samples read so far, the largest at the "
                   "bottom.</desc>\n");
    chart_axes_(w, s->x_label, &ax, &ay);
    for (size_t b = 0; b < l.bands; b++) {
        shares_band_(w, s, &l, b, &ay);
    }
    shares_weights_(w, s, &l, &ay);
    text_format(w, "</svg></figure></div>\n");
}

#endif
