# SPDX-License-Identifier: GPL-2.0-only
"""Pictures for a page: static SVG, drawn by Vega-Lite, in the colours of the text around them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

#: Pairs of the largest value of a bucket in ns and a count, as a benchmark prints them.
Histogram = Sequence[tuple[int, int]]

#: Colours that are told apart without red and green, on white and on black.
_COLOURS = ("#2f7ed8", "#d9822b")
_WIDTH, _HEIGHT = 560, 200


def distributions(title: str, boots: Mapping[str, Sequence[Histogram]]) -> str:
    """The distribution functions of a time in µs on a logarithmic scale, a line for each boot, as SVG.

    :param title: the name of the time.
    :param boots: the histograms of the boots, by the name of the kernel; no more than two kernels.
    """
    points = [
        {"us": upper / 1000, "share": below / total, "kernel": kernel, "boot": number}
        for kernel, histograms in boots.items()
        for number, histogram in enumerate(histograms)
        if (total := sum(times for _, times in histogram))
        for (upper, _), below in zip(histogram, accumulate(times for _, times in histogram), strict=True)
        if upper
    ]
    axis = {"grid": True, "gridOpacity": 0.25}
    return _svg(
        {
            "title": {"text": title, "anchor": "start", "fontSize": 12},
            "data": {"values": points},
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
            "encoding": {
                "x": {
                    "field": "us",
                    "type": "quantitative",
                    "scale": {"type": "log", "nice": False},
                    "axis": {**axis, "title": "µs", "format": "~g", "tickCount": 6},
                },
                "y": {
                    "field": "share",
                    "type": "quantitative",
                    "axis": {**axis, "title": "share of the calls", "format": ".0%", "tickCount": 5},
                },
                "color": {
                    "field": "kernel",
                    "type": "nominal",
                    "scale": {"domain": list(boots), "range": list(_COLOURS)},
                    "legend": {"title": None, "orient": "top", "symbolType": "stroke"},
                },
                "detail": {"field": "boot"},
            },
        }
    )


def _svg(chart: Mapping[str, Any]) -> str:
    import vl_convert

    text = dict.fromkeys(("labelColor", "titleColor"), "currentColor")
    line = dict.fromkeys(("gridColor", "domainColor", "tickColor"), "currentColor")
    config = {
        "background": "transparent",
        "view": {"stroke": None},
        "font": "system-ui, sans-serif",
        "axis": text | line,
        "legend": text,
        "title": {"color": "currentColor"},
    }
    drawn = vl_convert.vegalite_to_svg({"width": _WIDTH, "height": _HEIGHT, "config": config, **chart})
    # the picture scales with the page
    return re.sub(r'width="([\d.]+)" height="([\d.]+)"', r'data-width="\1"', drawn, count=1)
