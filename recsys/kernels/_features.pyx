# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Features of a batch of queries, query by query: byte for byte what `recsys.features.reference` computes in numpy.

Where numpy calls a library that rounds in its own way (matrix products, logarithms of arrays), its own loop is called:
the one behind `np.matmul` or `np.log`, with the operands that the reference gives it. Everything else is the same
operations in the same precision and order, a sum of floats as numpy adds them (`total`).
"""

cimport numpy as cnp
from libc.math cimport INFINITY, fabsf, isfinite, log1p, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import numpy as np

cnp.import_array()
cnp.import_ufunc()


# --- numpy's own loops -----------------------------------------------------------------------------------------------

ctypedef void (*Function)(char **, cnp.npy_intp *, cnp.npy_intp *, void *) noexcept nogil

cdef struct Loop:
    Function function
    void *data


cdef Loop loop_of(cnp.ufunc function, int type_number) except *:
    """The loop whose operands are all of one type."""
    cdef int i, operand
    for i in range(function.ntypes):
        if all([function.types[i * function.nargs + operand] == type_number for operand in range(function.nargs)]):
            return Loop(<Function><void *>function.functions[i], function.data[i])
    raise ImportError(f"numpy {np.__version__}: {function} has no loop for type {type_number}")


cdef Loop MATMUL_FLOAT = loop_of(np.matmul, cnp.NPY_FLOAT), MATMUL_DOUBLE = loop_of(np.matmul, cnp.NPY_DOUBLE)
cdef Loop LOG = loop_of(np.log, cnp.NPY_DOUBLE), LOG1P = loop_of(np.log1p, cnp.NPY_DOUBLE)


cdef void matmul(Loop loop, Py_ssize_t size, const void *left, const void *right, void *out, Py_ssize_t m, Py_ssize_t n,
                 Py_ssize_t p, bint transposed) noexcept nogil:
    """out[m, p] = left[m, n] @ right[n, p], or right[p, n].T where `transposed`; contiguous, `size` bytes an element.

    As numpy does, the stride of a dimension of length 1 is 0.
    """
    cdef cnp.npy_intp dimensions[4]
    cdef cnp.npy_intp steps[9]
    cdef char *operands[3]
    operands[0], operands[1], operands[2] = <char *>left, <char *>right, <char *>out
    dimensions[0], dimensions[1], dimensions[2], dimensions[3] = 1, m, n, p
    steps[0] = steps[1] = steps[2] = 0
    steps[3] = n * size if m != 1 else 0
    steps[4] = size if n != 1 else 0
    steps[5] = (size if transposed else p * size) if n != 1 else 0
    steps[6] = (n * size if transposed else size) if p != 1 else 0
    steps[7] = p * size if m != 1 else 0
    steps[8] = size if p != 1 else 0
    loop.function(operands, dimensions, steps, loop.data)


cdef inline void product(const float *left, const float *right, float *out, Py_ssize_t m, Py_ssize_t n, Py_ssize_t p,
                         bint transposed) noexcept nogil:
    matmul(MATMUL_FLOAT, sizeof(float), left, right, out, m, n, p, transposed)


cdef inline float dot(const float *left, const float *right, Py_ssize_t n) noexcept nogil:
    cdef float result = 0
    matmul(MATMUL_FLOAT, sizeof(float), left, right, &result, 1, n, 1, False)
    return result


cdef void elementwise(Loop loop, const double *values, double *out, Py_ssize_t n) noexcept nogil:
    """out = loop(values)."""
    cdef cnp.npy_intp length = n
    cdef cnp.npy_intp steps[2]
    cdef char *operands[2]
    operands[0], operands[1] = <char *>values, <char *>out
    steps[0] = steps[1] = sizeof(double)
    loop.function(operands, &length, steps, loop.data)


cdef float total(const float *values, Py_ssize_t n) noexcept nogil:
    """numpy's pairwise sum: eight running sums up to 128 values, halves above (`pairwise_sum` in its loops)."""
    cdef float sums[8]
    cdef float result = 0
    cdef Py_ssize_t i, lane, half
    if n < 8:
        for i in range(n):
            result += values[i]
        return result
    if n > 128:
        half = n // 2
        half -= half % 8
        return total(values, half) + total(values + half, n - half)
    memcpy(sums, values, sizeof(sums))
    i = 8
    while i < n - n % 8:
        for lane in range(8):
            sums[lane] += values[i + lane]
        i += 8
    result = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    while i < n:
        result += values[i]
        i += 1
    return result


cdef float largest(const float *values, Py_ssize_t n) noexcept nogil:
    """The largest of at least one value, eight at a time."""
    cdef float best[8]
    cdef Py_ssize_t i, lane
    for lane in range(8):
        best[lane] = values[0]
    for i in range(0, n - n % 8, 8):
        for lane in range(8):
            best[lane] = values[i + lane] if values[i + lane] > best[lane] else best[lane]
    for i in range(n - n % 8, n):
        best[0] = values[i] if values[i] > best[0] else best[0]
    for lane in range(1, 8):
        best[0] = best[lane] if best[lane] > best[0] else best[0]
    return best[0]


# --- names of columns ------------------------------------------------------------------------------------------------

cdef enum:  # of a user's numbers: `USER_NAMES`, then `SESSION_NAMES`
    EVENTS
    WEEK_EVENTS
    MONTH_EVENTS
    EVENTS_PER_DAY
    DAYS_SINCE_LAST
    DAYS_SINCE_FIRST
    MEAN_RATING
    RATING_SPREAD
    GENRE_ENTROPY
    MEAN_POPULARITY
    POPULARITY_SPREAD
    MEAN_YEAR
    YEAR_SPREAD
    RECENT_RATING
    RECENT_POPULARITY
    SESSIONS
    SESSION_EVENTS
    IN_SESSION
    HOUR_SHARE
    WEEKEND_SHARE
    NUMBERS

cdef enum:  # of a user's habits and what they are compared with: `HABITS`
    HABIT_YEAR
    HABIT_RECENT_YEAR
    HABIT_RATING
    HABIT_POPULARITY
    HABIT_RECENT_POPULARITY
    HABIT_DAYS_SINCE
    HABITS

cdef enum:  # of `CROSS_NAMES`: three of genres, one of decades, then one for each of `HABITS`
    GENRE_CROSSES = 3
    DECADE_CROSS = 3
    HABIT_CROSSES = 4

cdef enum:  # of `SIMILARITY_NAMES`: mean cosines with groups of events, then two of single events
    LAST_EVENT
    LAST_EVENTS
    SESSION
    RECENT
    ALL
    LIKED
    DISLIKED
    GROUPS
    NEAREST = GROUPS
    NEIGHBOUR_RATING
    SIMILARITIES

cdef enum:  # of `PEOPLE_NAMES`
    DIRECTOR_EVENTS
    DIRECTOR_RATING
    CAST_EVENTS
    CAST_OVERLAP

cdef enum:  # of `evidence_names`: two for each channel, then three over all of them
    RELATIVE
    RANK
    PER_CHANNEL
    RETURNED = 0
    BEST_RANK
    FUSED


# --- the history of one query ----------------------------------------------------------------------------------------

cdef struct History:  # known events, oldest first
    Py_ssize_t n
    const int64_t *rows
    const int64_t *timestamps
    const float *values
    int64_t as_of

cdef struct User:  # what a history says of its user; arrays by event have one value per event
    float numbers[NUMBERS]
    float habits[HABITS]
    float *decades  # share of events by decade
    float *genres  # [genres, 3]: share of events, share of recent ones, mean deviation of ratings
    float *by_genre  # [3, events]: ones, then the two below; what genres are the product with
    float *recent  # [events]: weight of recency
    float *deviations  # [events]: rating less the mean
    Py_ssize_t session  # first event of the last session


cdef inline double centre(float *values, Py_ssize_t n) noexcept nogil:
    """The mean of at least one value; it is taken off each of them."""
    cdef double mean = <double>total(values, n) / n
    cdef float rounded = <float>mean
    cdef Py_ssize_t i
    for i in range(n):
        values[i] -= rounded
    return mean


cdef inline double spread(const float *apart, Py_ssize_t n) noexcept nogil:
    """The standard deviation of values with these distances from their mean."""
    return sqrt(<double>dot(apart, apart, n) / n)


cdef void describe_activity(User *user, const History *past, int64_t day) noexcept nogil:
    cdef double age, first = 0, last = INFINITY
    cdef int64_t seconds, week = 0, month = 0
    cdef Py_ssize_t i
    for i in range(past.n):
        seconds = past.as_of - past.timestamps[i]
        age = <double>(seconds if seconds > 0 else 0) / day
        first = age if age > first else first
        last = age if age < last else last
        week += age <= 7
        month += age <= 30
    user.numbers[EVENTS] = <float>log1p(<double>past.n)
    user.numbers[WEEK_EVENTS] = <float>log1p(<double>week)
    user.numbers[MONTH_EVENTS] = <float>log1p(<double>month)
    user.numbers[EVENTS_PER_DAY] = <float>log1p(past.n / (first - last + 1.0))
    user.numbers[DAYS_SINCE_LAST] = <float>log1p(last)
    user.numbers[DAYS_SINCE_FIRST] = <float>log1p(first)


cdef inline int64_t floored(int64_t value, int64_t divisor) noexcept nogil:
    return value // divisor - (value % divisor < 0)


cdef inline bint is_weekend(int64_t day) noexcept nogil:
    """Whether a day since 1970-01-01, which was a Thursday, is a Saturday or a Sunday."""
    day += 3
    return day - 7 * floored(day, 7) >= 5


cdef void describe_sessions(User *user, const History *past, int64_t day, int64_t gap, int64_t width) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t sessions = 1, near = 0, alike = 0, apart, today = floored(past.as_of, day), date
    cdef bint weekend = is_weekend(today)
    user.session = 0
    for i in range(past.n):
        if i and past.timestamps[i] - past.timestamps[i - 1] > gap:
            sessions += 1
            user.session = i
        date = floored(past.timestamps[i], day)
        apart = (past.timestamps[i] - date * day) - (past.as_of - today * day)
        apart = -apart if apart < 0 else apart
        near += (apart if apart < day - apart else day - apart) <= width
        alike += is_weekend(date) == weekend
    user.numbers[SESSIONS] = <float>log1p(<double>sessions)
    user.numbers[SESSION_EVENTS] = <float>log1p(<double>(past.n - user.session))
    user.numbers[IN_SESSION] = past.as_of - past.timestamps[past.n - 1] <= gap
    user.numbers[HOUR_SHARE] = <float>(<double>near / past.n)
    user.numbers[WEEKEND_SHARE] = <float>(<double>alike / past.n)


cdef void weigh_by_recency(User *user, const History *past, const float[::1] recency) noexcept nogil:
    """`recency` has the weights of the last events before they are scaled to sum to 1; earlier ones weigh nothing."""
    cdef Py_ssize_t i, longest = recency.shape[0]
    cdef float scale
    for i in range(past.n):
        user.recent[i] = recency[longest - past.n + i] if past.n - i <= longest else 0
    scale = total(user.recent, past.n)
    for i in range(past.n):
        user.recent[i] /= scale


cdef void describe_ratings(User *user, const History *past, float *apart, float missing) noexcept nogil:
    cdef Py_ssize_t i, rated = 0
    cdef double mean = missing
    user.numbers[RATING_SPREAD] = user.numbers[RECENT_RATING] = missing
    for i in range(past.n):
        if isfinite(past.values[i]):
            apart[rated] = past.values[i]
            rated += 1
    if rated:
        mean = centre(apart, rated)
        user.numbers[RATING_SPREAD] = <float>spread(apart, rated)
    user.numbers[MEAN_RATING] = user.habits[HABIT_RATING] = <float>mean
    for i in range(past.n):
        user.deviations[i] = past.values[i] - <float>mean if isfinite(past.values[i]) else 0
    if mean != missing:
        user.numbers[RECENT_RATING] = dot(user.deviations, user.recent, past.n)


cdef void describe_popularity(
    User *user, const History *past, const float[::1] popularity, float *values
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(past.n):
        values[i] = popularity[past.rows[i]]
    user.numbers[RECENT_POPULARITY] = user.habits[HABIT_RECENT_POPULARITY] = dot(values, user.recent, past.n)
    user.numbers[MEAN_POPULARITY] = user.habits[HABIT_POPULARITY] = <float>centre(values, past.n)
    user.numbers[POPULARITY_SPREAD] = <float>spread(values, past.n)


cdef void describe_years(
    User *user, const History *past, const float[::1] years, const int64_t[::1] decades, float *apart, float *weights,
    Py_ssize_t n_decades, float missing,
) noexcept nogil:
    cdef Py_ssize_t i, dated = 0
    cdef double mean = missing, recent = missing, weight, shift
    user.numbers[YEAR_SPREAD] = missing
    memset(user.decades, 0, n_decades * sizeof(float))
    for i in range(past.n):
        if years[past.rows[i]] != missing:
            apart[dated], weights[dated] = years[past.rows[i]], user.recent[i]
            # A count, exact in single precision below 2^24.
            user.decades[decades[past.rows[i]]] += 1
            dated += 1
    if dated:
        mean = recent = centre(apart, dated)
        user.numbers[YEAR_SPREAD] = <float>spread(apart, dated)
        weight, shift = total(weights, dated), dot(apart, weights, dated)
        recent = mean + shift / weight if weight > 0 else mean
        for i in range(n_decades):
            user.decades[i] = <float>(<double>user.decades[i] / dated)
    user.numbers[MEAN_YEAR] = user.habits[HABIT_YEAR] = <float>mean
    user.habits[HABIT_RECENT_YEAR] = <float>recent


cdef void describe_genres(
    User *user, const History *past, const float[:, ::1] genres, float *of_events, float *sums, double *shares,
    bint entropy,
) noexcept nogil:
    """Sums over the events, of their items' shares of genres: of 1, of recency, of deviations of ratings."""
    cdef Py_ssize_t i, genre, width = genres.shape[1], present = 0
    cdef float every
    cdef double negative = 0
    for i in range(past.n):
        user.by_genre[i] = 1
        memcpy(of_events + i * width, &genres[past.rows[i], 0], width * sizeof(float))
    product(user.by_genre, of_events, sums, 3, past.n, width, False)
    for genre in range(width):
        every = sums[genre]
        user.genres[3 * genre] = <float>(<double>every / past.n)
        user.genres[3 * genre + 1] = sums[width + genre]
        user.genres[3 * genre + 2] = sums[2 * width + genre] / (every if every > 1 else <float>1)
        if every > 0:
            shares[present] = <double>every / past.n
            present += 1
    if entropy:
        elementwise(LOG, shares, shares + width, present)
        matmul(MATMUL_DOUBLE, sizeof(double), shares, shares + width, &negative, 1, present, 1, False)
        user.numbers[GENRE_ENTROPY] = <float>-negative


cdef void forget(User *user, Py_ssize_t n_decades, float missing) noexcept nogil:
    """A user without a history."""
    cdef Py_ssize_t i
    for i in range(NUMBERS):
        user.numbers[i] = missing
    for i in range(HABITS):
        user.habits[i] = missing
    for i in range(EVENTS_PER_DAY + 1):
        user.numbers[i] = 0
    user.numbers[SESSIONS] = user.numbers[SESSION_EVENTS] = user.numbers[IN_SESSION] = 0
    memset(user.decades, 0, n_decades * sizeof(float))


cdef void prefer(User *user, const int64_t *genres, Py_ssize_t n) noexcept nogil:
    """Genres that the user names stand for shares of events."""
    cdef Py_ssize_t i
    for i in range(n):
        user.genres[3 * genres[i]] = user.genres[3 * genres[i] + 1] = <float>(1.0 / n)


# --- candidates against the user -------------------------------------------------------------------------------------

cdef struct Output:  # the rows of one query's candidates
    Py_ssize_t n
    const int64_t *rows
    float *values
    Py_ssize_t width


cdef inline void put(Output out, Py_ssize_t i, int64_t column, float value) noexcept nogil:
    """Sets a value of candidate i, unless its column is -1: nobody wants it."""
    if column >= 0:
        out.values[i * out.width + column] = value


cdef Py_ssize_t weigh_groups(
    float *groups, bint *filled, const User *user, Py_ssize_t n, Py_ssize_t last
) noexcept nogil:
    """[GROUPS, n]: the weights of the events in each group, which sum to 1. Returns how many groups have events."""
    cdef Py_ssize_t i, group, present = 0
    cdef float scale
    cdef float *row
    for i in range(n):
        groups[LAST_EVENT * n + i] = i == n - 1
        groups[LAST_EVENTS * n + i] = i >= n - last
        groups[SESSION * n + i] = i >= user.session
        groups[RECENT * n + i] = user.recent[i]
        groups[ALL * n + i] = 1
        groups[LIKED * n + i] = user.deviations[i] >= 0
        groups[DISLIKED * n + i] = not user.deviations[i] >= 0
    for group in range(GROUPS):
        row = groups + group * n
        scale = total(row, n)
        filled[group] = scale > 0
        present += filled[group]
        scale = scale if scale > <float>1e-9 else <float>1e-9
        for i in range(n):
            row[i] /= scale
    return present


cdef void compare_groups(
    float *similarity, const float *candidates, Py_ssize_t c, const float *past, Py_ssize_t n, Py_ssize_t d,
    const User *user, Py_ssize_t last, float missing, float *work,
) noexcept nogil:
    """[c, GROUPS]: a mean cosine is the product with the weighted mean vector of the group."""
    cdef bint filled[GROUPS]
    cdef Py_ssize_t i, group, k = 0, present
    cdef float *means = work
    cdef float *kept = means + GROUPS * d
    cdef float *cosines = kept + GROUPS * d
    cdef float *groups = cosines + GROUPS * c
    present = weigh_groups(groups, filled, user, n, last)
    product(groups, past, means, GROUPS, n, d, False)
    for group in range(GROUPS):
        if filled[group]:
            memcpy(kept + k * d, means + group * d, d * sizeof(float))
            k += 1
    product(candidates, kept, cosines, c, d, present, True)
    k = 0
    for group in range(GROUPS):
        for i in range(c):
            similarity[i * GROUPS + group] = cosines[i * present + k] if filled[group] else missing
        k += filled[group]


cdef void compare_single(
    Output out, const int64_t[::1] columns, const float *candidates, const float *past, Py_ssize_t n, Py_ssize_t d,
    const float *deviations, float *work,
) noexcept nogil:
    """Each of the latest events by itself: the nearest, and the deviations of ratings weighted by positive cosines."""
    cdef float *cosines = work
    cdef float *weighted = cosines + out.n * n
    cdef Py_ssize_t i
    cdef float scale
    product(candidates, past, cosines, out.n, d, n, True)
    for i in range(out.n):
        put(out, i, columns[NEAREST], largest(cosines + i * n, n))
    if columns[NEIGHBOUR_RATING] < 0:
        return
    for i in range(out.n * n):
        cosines[i] = cosines[i] if cosines[i] > 0 else 0
    product(cosines, deviations, weighted, out.n, n, 1, False)
    for i in range(out.n):
        scale = total(cosines + i * n, n)
        put(out, i, columns[NEIGHBOUR_RATING], weighted[i] / (scale if scale > <float>1e-6 else <float>1e-6))


cdef void put_crosses(
    Output out, const int64_t[::1] columns, const float *genres, const float[:, ::1] compared,
    const int64_t[::1] decades, const User *user, float missing,
) noexcept nogil:
    """`genres`: [n, 3], the product of the items' shares of genres and the user's genres."""
    cdef Py_ssize_t i, k
    cdef const float *item
    cdef float deviation
    for i in range(out.n):
        item = &compared[out.rows[i], 0]
        for k in range(GENRE_CROSSES):
            put(out, i, columns[k], genres[i * GENRE_CROSSES + k])
        put(out, i, columns[DECADE_CROSS], user.decades[decades[out.rows[i]]] if item[HABIT_YEAR] != missing else 0)
        for k in range(HABITS):
            deviation = missing
            if item[k] != missing and user.habits[k] != missing:
                deviation = item[k] - user.habits[k]
                # Only the distance from the recent year has no sign.
                deviation = fabsf(deviation) if k == HABIT_RECENT_YEAR else deviation
            put(out, i, columns[HABIT_CROSSES + k], deviation)


# --- candidates against each other -----------------------------------------------------------------------------------

cdef void put_ranks(Output out, int64_t column, const float *values, Py_ssize_t stride, uint64_t *keys) noexcept nogil:
    """1 + the number of candidates with a larger value, by a radix sort of (value, candidate) from the largest down."""
    cdef Py_ssize_t i, position, rank = 1
    cdef uint32_t counts[4][256]
    cdef uint32_t bits, before, found
    cdef int digit
    cdef float value
    cdef uint64_t *source = keys
    cdef uint64_t *sorted_keys = keys + out.n
    memset(counts, 0, sizeof(counts))
    for i in range(out.n):
        value = values[i * stride] + <float>0  # no -0
        memcpy(&bits, &value, sizeof(float))
        # Ascending keys for descending values: all bits but the sign of a positive number are turned.
        bits = bits if bits >> 31 else ~bits << 1 >> 1
        source[i] = <uint64_t>bits << 32 | <uint64_t>i
        for digit in range(4):
            counts[digit][bits >> (8 * digit) & 255] += 1
    for digit in range(4):
        before = 0
        for i in range(256):
            found = counts[digit][i]
            counts[digit][i] = before
            before += found
        for i in range(out.n):
            bits = <uint32_t>(source[i] >> (32 + 8 * digit)) & 255
            sorted_keys[counts[digit][bits]] = source[i]
            counts[digit][bits] += 1
        source, sorted_keys = sorted_keys, source
    for position in range(out.n):
        if position and source[position] >> 32 != source[position - 1] >> 32:
            rank = position + 1
        put(out, <uint32_t>source[position], column, rank)


cdef void put_evidence(
    Output out, const int64_t[::1] columns, const float *scores, const int32_t *ranks, Py_ssize_t channels,
    float *parts, float worst_rank, float worst_score, float constant,
) noexcept nogil:
    """`scores` and `ranks`: [n, channels]; rank 0: the channel did not return the item."""
    cdef Py_ssize_t i, channel, k, returned
    cdef float low, high, score, rank, best
    for channel in range(channels):
        if columns[PER_CHANNEL * channel + RELATIVE] >= 0:
            low, high = <float>INFINITY, -<float>INFINITY
            for i in range(out.n):
                k = i * channels + channel
                if ranks[k] > 0:
                    low = scores[k] if scores[k] < low else low
                    high = scores[k] if scores[k] > high else high
            for i in range(out.n):
                k = i * channels + channel
                score = worst_score
                if ranks[k] > 0:
                    score = (scores[k] - low) / (high - low) if high > low else 1
                put(out, i, columns[PER_CHANNEL * channel + RELATIVE], score)
        if columns[PER_CHANNEL * channel + RANK] >= 0:
            for i in range(out.n):
                k = i * channels + channel
                put(out, i, columns[PER_CHANNEL * channel + RANK], <float>ranks[k] if ranks[k] > 0 else worst_rank)
    k = PER_CHANNEL * channels
    if columns[k + RETURNED] < 0 and columns[k + BEST_RANK] < 0 and columns[k + FUSED] < 0:
        return
    for i in range(out.n):
        returned, best = 0, worst_rank
        for channel in range(channels):
            parts[channel] = 0
            if ranks[i * channels + channel] > 0:
                rank = <float>ranks[i * channels + channel]
                best = rank if rank < best else best
                parts[channel] = <float>1 / (constant + rank)
                returned += 1
        put(out, i, columns[k + RETURNED], returned)
        put(out, i, columns[k + BEST_RANK], best)
        put(out, i, columns[k + FUSED], total(parts, channels))


# --- people ----------------------------------------------------------------------------------------------------------

cdef struct Known:  # a person of the history
    int32_t person
    int32_t events  # 0: an empty place of the table
    double deviations


cdef Known *find(Known *table, uint32_t mask, int32_t person) noexcept nogil:
    """The place of a person in an open-addressing hash table, or the empty place where it belongs."""
    cdef uint32_t place = <uint32_t>person * <uint32_t>2654435769 & mask
    while table[place].events and table[place].person != person:
        place = (place + 1) & mask
    return &table[place]


cdef int put_people(
    Output out, const int64_t[::1] columns, const History *past, const float *deviations,
    const int64_t[::1] indptr, const int32_t[::1] persons, bint directing, double *work, float missing,
) except -1 nogil:
    """The people of one role: events of the history with them, and the deviations of those events' ratings."""
    cdef Py_ssize_t i, j, credits = 0
    cdef uint32_t size = 2
    cdef Known *table
    cdef Known *known
    cdef double most, events, apart, overlap
    cdef double *counts = work
    cdef double *logs = work + out.n
    for i in range(past.n):
        credits += indptr[past.rows[i] + 1] - indptr[past.rows[i]]
    while size < 2 * credits:
        size *= 2
    table = <Known *>calloc(size, sizeof(Known))
    if table is NULL:
        with gil:
            raise MemoryError
    for i in range(past.n):
        for j in range(indptr[past.rows[i]], indptr[past.rows[i] + 1]):
            known = find(table, size - 1, persons[j])
            known.person = persons[j]
            known.events += 1
            known.deviations += deviations[i]
    for i in range(out.n):
        most = events = apart = overlap = 0
        for j in range(indptr[out.rows[i]], indptr[out.rows[i] + 1]):
            known = find(table, size - 1, persons[j])
            if known.events:
                most = known.events if known.events > most else most
                events += known.events
                apart += known.deviations
                overlap += 1
        counts[i] = most if directing else events
        if indptr[out.rows[i]] == indptr[out.rows[i] + 1]:
            apart = overlap = missing
        elif directing:
            apart = apart / (events if events > 1 else 1)
        put(out, i, columns[DIRECTOR_RATING if directing else CAST_OVERLAP], <float>(apart if directing else overlap))
    free(table)
    elementwise(LOG1P, counts, logs, out.n)
    for i in range(out.n):
        put(out, i, columns[DIRECTOR_EVENTS if directing else CAST_EVENTS],
            <float>logs[i] if indptr[out.rows[i]] < indptr[out.rows[i] + 1] else missing)
    return 0


# --- batches ---------------------------------------------------------------------------------------------------------

cdef struct Work:  # memory for one query at a time
    float *candidates  # vectors of the candidates
    float *past  # vectors of the events
    float *similarity  # [candidates, GROUPS]
    float *passing  # whatever is needed for a moment
    double *doubles
    uint64_t *keys


cdef class Features:
    """Computes the features of batches from the arrays of one bundle, which have a row per item of the catalogue.

    `columns` has by group of features an int64 array: the column of the result that each feature fills, -1: none.
    `ranked` says what each feature of the group "ranks" ranks: a column of `items`, or what follows those, which is
    first the item's value of `stages`, then the similarities. `directors` and `cast` are (indptr, person rows), or None
    where the catalogue names nobody. `traits` is an `ItemTraits`; constants are those of the modules of features.

    Nothing is checked: rows, bounds and columns out of range read and write foreign memory.
    """

    cdef const float[:, ::1] items, stages, vectors, genres, compared
    cdef const float[::1] years, popularity, recency
    cdef const int64_t[::1] decades, director_bounds, cast_bounds
    cdef const int32_t[::1] directors, cast
    cdef const int64_t[::1] item_sources, item_columns, number_sources, number_columns, ranked
    cdef const int64_t[::1] cross_columns, similarity_columns, people_columns, rank_columns, evidence_columns
    cdef const int64_t[::1] stage_bounds
    cdef int64_t stage_column
    cdef bint credited, wants_user, wants_sums, wants_entropy, wants_crosses, wants_groups, wants_single
    cdef bint wants_people, wants_evidence
    cdef Py_ssize_t n_decades, last, latest
    cdef int64_t day, session_gap, hour_width
    cdef float missing, worst_rank, worst_score, fusion

    def __init__(self, columns, ranked, *, items, stages, vectors, traits, directors, cast, recency, stage_bounds,
                 Py_ssize_t decades, float missing, int64_t day, int64_t session_gap, int64_t hour_width,
                 Py_ssize_t last, Py_ssize_t latest, float worst_rank, float worst_score, float fusion):
        self.items, self.stages, self.vectors, self.recency = items, stages, vectors, recency
        self.genres, self.compared, self.decades = traits.genres, traits.compared, traits.decades
        self.years, self.popularity = traits.years, traits.popularity
        self.stage_bounds = stage_bounds
        self.credited = directors is not None
        if self.credited:
            (self.director_bounds, self.directors), (self.cast_bounds, self.cast) = directors, cast
        self.n_decades, self.last, self.latest = decades, last, latest
        self.missing, self.day, self.session_gap, self.hour_width = missing, day, session_gap, hour_width
        self.worst_rank, self.worst_score, self.fusion = worst_rank, worst_score, fusion
        self.item_sources, self.item_columns = _wanted(columns["items"])
        self.number_sources, self.number_columns = _wanted(columns["users"])
        self.cross_columns, self.similarity_columns = columns["crosses"], columns["similarity"]
        self.people_columns, self.rank_columns = columns["people"], columns["ranks"]
        self.evidence_columns, self.stage_column, self.ranked = columns["evidence"], columns["stage"][0], ranked
        self._choose(columns, ranked)

    def _choose(self, columns, ranked):
        """What has to be computed for the columns that are wanted."""
        wanted = {group: found >= 0 for group, found in columns.items()}
        of_similarity = self.items.shape[1] + 1
        self.wants_entropy = wanted["users"][GENRE_ENTROPY]
        self.wants_sums = wanted["crosses"][:GENRE_CROSSES].any() or self.wants_entropy
        self.wants_crosses, self.wants_people = wanted["crosses"].any(), wanted["people"].any()
        self.wants_groups = (
            wanted["similarity"][:GROUPS].any() or (wanted["ranks"] & (np.asarray(ranked) >= of_similarity)).any()
        )
        self.wants_single = wanted["similarity"][GROUPS:].any()
        self.wants_evidence = wanted["evidence"].any()
        self.wants_user = (
            wanted["users"].any() or self.wants_crosses or self.wants_groups or self.wants_single or self.wants_people
        )

    def fill(self, batch, float[:, ::1] values):
        """Fills float32[candidates, columns] with the features of a `QueryBatch`."""
        cdef const int64_t[::1] rows = batch.rows, bounds = batch.bounds, as_of = batch.as_of
        cdef const int64_t[::1] event_rows = batch.event_rows, event_bounds = batch.event_bounds
        cdef const int64_t[::1] timestamps = batch.timestamps
        cdef const float[::1] event_values = batch.values
        cdef const int64_t[::1] preferred = batch.preferred, preferred_bounds = batch.preferred_bounds
        cdef const float[:, ::1] scores = batch.scores
        cdef const int32_t[:, ::1] ranks = batch.ranks
        cdef Py_ssize_t query, first, event, c = 0, n = 0, width = values.shape[1], channels = scores.shape[1]
        cdef History past
        cdef Output out
        cdef User user
        cdef Work work
        cdef char *memory
        if timestamps.shape[0] != event_rows.shape[0] or event_values.shape[0] != event_rows.shape[0]:
            raise ValueError(
                f"{timestamps.shape[0]} timestamps and {event_values.shape[0]} values of {event_rows.shape[0]} events"
            )
        if ranks.shape[0] != rows.shape[0] or scores.shape[0] != rows.shape[0]:
            raise ValueError(f"{scores.shape[0]} scores and {ranks.shape[0]} ranks of {rows.shape[0]} candidates")
        for query in range(as_of.shape[0]):
            c = max(c, bounds[query + 1] - bounds[query])
            n = max(n, event_bounds[query + 1] - event_bounds[query])
        if c == 0 or width == 0:
            return
        memory = self._allocate(&work, &user, c, n)
        if memory is NULL:
            raise MemoryError
        try:
            with nogil:
                for query in range(as_of.shape[0]):
                    first, event = bounds[query], event_bounds[query]
                    if bounds[query + 1] == first:
                        continue
                    out = Output(bounds[query + 1] - first, &rows[first], &values[first, 0], width)
                    past = History(event_bounds[query + 1] - event, &event_rows[event], &timestamps[event],
                                   &event_values[event], as_of[query])
                    self._describe(&user, &past, &work)
                    if past.n == 0:
                        prefer(&user, &preferred[preferred_bounds[query]],
                               preferred_bounds[query + 1] - preferred_bounds[query])
                    self._put(out, &past, &user, &work)
                    if self.wants_evidence:
                        put_evidence(out, self.evidence_columns, &scores[first, 0], &ranks[first, 0], channels,
                                     work.passing, self.worst_rank, self.worst_score, self.fusion)
        finally:
            free(memory)

    cdef char *_allocate(self, Work *work, User *user, Py_ssize_t c, Py_ssize_t n) noexcept nogil:
        """Memory for a query of at most c candidates and n events, which has to be freed; NULL if there is none."""
        cdef Py_ssize_t genres = self.genres.shape[1], d = self.vectors.shape[1]
        cdef Py_ssize_t of_user = self.n_decades + 3 * genres + 3 * n
        cdef Py_ssize_t passing = max(
            2 * n + (n + 3) * genres,  # to describe a user
            c * (genres + GENRE_CROSSES),
            GROUPS * (2 * d + c + n),
            c * (self.latest + 1),
            self.evidence_columns.shape[0],
        )
        cdef Py_ssize_t floats = of_user + (c + n) * d + GROUPS * c + passing
        cdef Py_ssize_t doubles = 2 * max(genres, c), keys = 2 * c
        cdef char *memory = <char *>malloc(keys * sizeof(uint64_t) + doubles * sizeof(double) + floats * sizeof(float))
        if memory is not NULL:
            work.keys = <uint64_t *>memory
            work.doubles = <double *>(work.keys + keys)
            user.decades = <float *>(work.doubles + doubles)
            user.genres = user.decades + self.n_decades
            user.by_genre = user.genres + 3 * genres
            work.candidates = user.decades + of_user
            work.past = work.candidates + c * d
            work.similarity = work.past + n * d
            work.passing = work.similarity + GROUPS * c
        return memory

    cdef void _describe(self, User *user, const History *past, const Work *work) noexcept nogil:
        """Everything about the user but the genres that a user without a history prefers."""
        cdef Py_ssize_t i, n = past.n
        user.recent, user.deviations = user.by_genre + n, user.by_genre + 2 * n
        memset(user.genres, 0, 3 * self.genres.shape[1] * sizeof(float))
        if not self.wants_user:
            return
        if not n:
            forget(user, self.n_decades, self.missing)
            return
        describe_activity(user, past, self.day)
        describe_sessions(user, past, self.day, self.session_gap, self.hour_width)
        weigh_by_recency(user, past, self.recency)
        describe_ratings(user, past, work.passing, self.missing)
        describe_popularity(user, past, self.popularity, work.passing)
        describe_years(user, past, self.years, self.decades, work.passing, work.passing + n, self.n_decades,
                       self.missing)
        user.habits[HABIT_DAYS_SINCE] = user.numbers[DAYS_SINCE_LAST]
        if self.wants_sums:
            describe_genres(user, past, self.genres, work.passing, work.passing + n * self.genres.shape[1],
                            work.doubles, self.wants_entropy)

    cdef int _put(self, Output out, const History *past, const User *user, const Work *work) except -1 nogil:
        """The features of one query's candidates, but for the evidence of channels."""
        cdef Py_ssize_t i, k, stage = 0
        cdef const float *item
        for i in range(out.n):
            item = &self.items[out.rows[i], 0]
            for k in range(self.item_sources.shape[0]):
                put(out, i, self.item_columns[k], item[self.item_sources[k]])
            for k in range(self.number_sources.shape[0]):
                put(out, i, self.number_columns[k], user.numbers[self.number_sources[k]])
        while stage + 1 < self.stage_bounds.shape[0] and self.stage_bounds[stage + 1] <= past.n:
            stage += 1
        if self.stage_column >= 0:
            for i in range(out.n):
                put(out, i, self.stage_column, self.stages[out.rows[i], stage])
        if self.wants_crosses:
            self._put_crosses(out, user, work)
        if self.wants_groups or self.wants_single:
            self._put_similarity(out, past, user, work)
        if self.wants_people:
            self._put_people(out, past, user, work)
        for k in range(self.ranked.shape[0]):
            if self.rank_columns[k] >= 0:
                self._put_ranks(out, k, stage, work)
        return 0

    cdef void _put_crosses(self, Output out, const User *user, const Work *work) noexcept nogil:
        cdef Py_ssize_t i, width = self.genres.shape[1]
        cdef float *products = work.passing
        cdef float *shares = products + out.n * GENRE_CROSSES
        if self.wants_sums:
            for i in range(out.n):
                memcpy(shares + i * width, &self.genres[out.rows[i], 0], width * sizeof(float))
            product(shares, user.genres, products, out.n, width, GENRE_CROSSES, False)
        put_crosses(out, self.cross_columns, products, self.compared, self.decades, user, self.missing)

    cdef void _put_similarity(self, Output out, const History *past, const User *user, const Work *work) noexcept nogil:
        cdef Py_ssize_t i, k, d = self.vectors.shape[1], latest = min(past.n, self.latest)
        if not past.n:
            for i in range(out.n):
                for k in range(GROUPS):
                    work.similarity[i * GROUPS + k] = self.missing
                for k in range(SIMILARITIES):
                    put(out, i, self.similarity_columns[k], self.missing)
            return
        for i in range(out.n):
            memcpy(work.candidates + i * d, &self.vectors[out.rows[i], 0], d * sizeof(float))
        for i in range(past.n):
            memcpy(work.past + i * d, &self.vectors[past.rows[i], 0], d * sizeof(float))
        if self.wants_groups:
            compare_groups(work.similarity, work.candidates, out.n, work.past, past.n, d, user, self.last, self.missing,
                           work.passing)
            for i in range(out.n):
                for k in range(GROUPS):
                    put(out, i, self.similarity_columns[k], work.similarity[i * GROUPS + k])
        if self.wants_single:
            compare_single(out, self.similarity_columns, work.candidates, work.past + (past.n - latest) * d, latest, d,
                           user.deviations + past.n - latest, work.passing)

    cdef int _put_people(self, Output out, const History *past, const User *user, const Work *work) except -1 nogil:
        cdef Py_ssize_t i, k
        if not self.credited:
            for i in range(out.n):
                for k in range(self.people_columns.shape[0]):
                    put(out, i, self.people_columns[k], self.missing)
            return 0
        put_people(out, self.people_columns, past, user.deviations, self.director_bounds, self.directors, True,
                   work.doubles, self.missing)
        put_people(out, self.people_columns, past, user.deviations, self.cast_bounds, self.cast, False,
                   work.doubles, self.missing)
        return 0

    cdef void _put_ranks(self, Output out, Py_ssize_t k, Py_ssize_t stage, const Work *work) noexcept nogil:
        cdef Py_ssize_t i, source = self.ranked[k], items = self.items.shape[1]
        if source > items:
            put_ranks(out, self.rank_columns[k], work.similarity + source - items - 1, GROUPS, work.keys)
            return
        for i in range(out.n):
            work.passing[i] = self.items[out.rows[i], source] if source < items else self.stages[out.rows[i], stage]
        put_ranks(out, self.rank_columns[k], work.passing, 1, work.keys)


cdef tuple _wanted(columns):
    """Positions of the features that have a column, and the columns."""
    sources = np.flatnonzero(columns >= 0)
    return sources, columns[sources]
