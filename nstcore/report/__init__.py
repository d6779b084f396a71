"""The page of a run: what was made from what, how it came to be, and what it cost. One HTML file, no outside requests.

recorder.py  what a page is made of, gathered while a run goes on
pictures.py  pictures small enough for a page, and the evaluations at which one is kept
losses.py    the losses as columns
layers.py    how long each layer takes
page.py      the HTML file, from page.html, page.css and the scripts beside it; and the data of one read back
live.py      the same page while the run goes on, served on the loopback address
"""

from .live import Live
from .page import HEAD, MOST_BYTES, page, read_page
from .pictures import LARGE, STYLE, picture
from .recorder import Recorder

__all__ = ["HEAD", "LARGE", "MOST_BYTES", "STYLE", "Live", "Recorder", "page", "picture", "read_page"]
