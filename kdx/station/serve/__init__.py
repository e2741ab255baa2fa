"""``kdx serve``: verdicts over HTTP, and a live page for operators and engineers."""
