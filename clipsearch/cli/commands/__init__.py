"""One module per command: it declares the options, calls the rooms below, and renders the result.

A module is imported when its command is called, so its imports stand at its top.
"""

COMMANDS = {
    "index": ("index", "Index folders of images, or bring their indexes up to date."),
    "search": ("search", "Find images by text or by example."),
    "browse": ("browse", "Search in a browser, on a page that this machine serves."),
    "watch": ("watch", "Keep indexes up to date until interrupted."),
    "status": ("status", "Show what is indexed, how, and what was tested."),
    "duplicates": ("duplicates", "Find images that are the same or nearly the same."),
    "classify": ("classify", "Label images with the classes of a domain or a probe."),
    "evaluate": ("evaluate", "Test a model and a domain on labelled images."),
    "domain": ("domain", "Write, show or check a domain: what the images are about."),
    "probe": ("probe", "Train classes of your own on labelled images."),
    "query": ("query", "Save queries under a name."),
    "embed": ("embed", "Embed images or archives of them into shards, without an index."),
    "export": ("transfer", "Write a collection's embeddings in clip-retrieval's layout."),
    "import": ("transfer", "Index a folder with embeddings that were made elsewhere."),
    "verify": ("verify", "Check that an index is whole and fits its images."),
    "models": ("status", "List models, and where their weights are."),
    "doctor": ("doctor", "Check this installation and every index it knows of."),
    "help": ("help", "Explain a topic: scores, queries, domains, models, recipes and more."),
}
"""Command -> its module, and what it does in one line, for the help of the whole program."""
