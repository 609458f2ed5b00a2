// curves.h: curves of any number of points in bounded memory. A curve has at most CURVE_BUCKETS
// buckets of equally many points, each of which keeps the lowest and the highest point and the
// mean. And marks: places on the x axis.
#ifndef REPORT_CURVES_H
#define REPORT_CURVES_H

#include <math.h>

#include "util/error.h"

typedef struct {
    double x, y;
} CurvePoint;

typedef struct {
    CurvePoint low, high; // the lowest and the highest point
    CurvePoint sum;       // of all `count` points
    double x_from;        // x of the first of them
    uint64_t count;
} CurveBucket;

enum { CURVE_BUCKETS = 1024, CURVE_LINE_POINTS = 2 * CURVE_BUCKETS + 2 };

typedef struct {
    CurveBucket *buckets; // (CURVE_BUCKETS) once there is a point
    size_t count;
    size_t points;
    uint64_t per_bucket; // points of a full bucket; doubles whenever all buckets are full
    CurvePoint first, last;
} Curve;

// Joins every two buckets to one.
static inline void curve_halve_(Curve *c) {
    for (size_t i = 0; i < CURVE_BUCKETS; i += 2) {
        const CurveBucket a = c->buckets[i], b = c->buckets[i + 1];
        c->buckets[i / 2] = (CurveBucket){.low = b.low.y < a.low.y ? b.low : a.low,
                                          .high = b.high.y > a.high.y ? b.high : a.high,
                                          .sum = {a.sum.x + b.sum.x, a.sum.y + b.sum.y},
                                          .x_from = a.x_from,
                                          .count = a.count + b.count};
    }
    c->count = CURVE_BUCKETS / 2;
    c->per_bucket *= 2;
}

// False for values that a curve leaves out: those that are not finite, or so large that ranges
// would not be.
static inline bool curve_takes(double value) {
    return fabs(value) < 1e30;
}

// Adds a point; x must not decrease. False if there is no memory.
static inline bool curve_add(Curve *c, double x, double y) {
    const CurvePoint point = {x, y};
    if (!curve_takes(x) || !curve_takes(y)) {
        return true;
    }
    if (!c->buckets && !(c->buckets = malloc(CURVE_BUCKETS * sizeof *c->buckets))) {
        return false;
    }
    if (c->points == 0) {
        c->first = point, c->per_bucket = 1;
    }
    c->last = point, c->points++;

    CurveBucket *last = c->count ? &c->buckets[c->count - 1] : NULL;
    if (last && last->count < c->per_bucket) {
        last->low = y < last->low.y ? point : last->low;
        last->high = y > last->high.y ? point : last->high;
        last->sum.x += x, last->sum.y += y, last->count++;
        return true;
    }
    if (c->count == CURVE_BUCKETS) {
        curve_halve_(c);
    }
    c->buckets[c->count++] = (CurveBucket){point, point, point, x, 1};
    return true;
}

// Mean of the points in buckets from .. to - 1.
static inline double curve_mean(const Curve *c, size_t from, size_t to) {
    double sum = 0, count = 0;
    for (size_t i = from; i < to; i++) {
        sum += c->buckets[i].sum.y;
        count += (double)c->buckets[i].count;
    }
    return sum / count;
}

// The curve as the points of a line: at most two per bucket, and both ends. Returns their number.
static inline size_t curve_line(const Curve *c, CurvePoint points[CURVE_LINE_POINTS]) {
    size_t n = 0;
    for (size_t i = 0; i < c->count; i++) {
        const CurveBucket *b = &c->buckets[i];
        bool low_first = b->low.x <= b->high.x;
        CurvePoint first = low_first ? b->low : b->high;
        if (i == 0 && first.x > c->first.x) {
            points[n++] = c->first;
        }
        points[n++] = first;
        if (b->low.x != b->high.x) {
            points[n++] = low_first ? b->high : b->low;
        }
    }
    if (n > 0 && points[n - 1].x < c->last.x) {
        points[n++] = c->last;
    }
    return n;
}

// The smoothed curve, a point per bucket: a straight line is fitted under a Gaussian window whose
// standard deviation is 1/60 of the curve (local linear regression, Cleveland 1979), which unlike a
// moving average has no bias at the ends. Returns the number of points.
static inline size_t curve_smooth(const Curve *c, CurvePoint points[CURVE_BUCKETS]) {
    double width = fmax((double)c->count / 60, 1);
    size_t reach = (size_t)ceil(3 * width);
    for (size_t i = 0; i < c->count; i++) {
        size_t from = i > reach ? i - reach : 0,
               to = i + reach < c->count ? i + reach : c->count - 1;
        double w0 = 0, w1 = 0, w2 = 0, y0 = 0, y1 = 0;
        for (size_t j = from; j <= to; j++) {
            const CurveBucket *b = &c->buckets[j];
            double at = ((double)j - (double)i) / width, w = exp(-0.5 * at * at) * (double)b->count;
            w0 += w, w1 += w * at, w2 += w * at * at;
            y0 += w * b->sum.y / (double)b->count, y1 += w * at * b->sum.y / (double)b->count;
        }
        double det = w0 * w2 - w1 * w1;
        points[i].x = c->buckets[i].sum.x / (double)c->buckets[i].count;
        points[i].y = det > 1e-9 * w0 * w0 ? (w2 * y0 - w1 * y1) / det : y0 / w0;
    }
    return c->count;
}

// ------------------------------------------------------------------------------------------------
// Marks: places on the x axis, of which the first MARKS_KEPT are kept

enum { MARKS_KEPT = 200 };

typedef struct {
    double x[MARKS_KEPT];
    size_t steps[MARKS_KEPT];
    size_t count; // all of them, also those not kept
} Marks;

static inline void marks_add(Marks *m, double x, uint64_t step) {
    if (m->count < MARKS_KEPT) {
        m->x[m->count] = x;
        m->steps[m->count] = step;
    }
    m->count++;
}

#endif
