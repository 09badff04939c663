"""Draw pictures as SVG, each a function of frozen values: stages of cells, releases over time, histograms, evidence, bytes."""
