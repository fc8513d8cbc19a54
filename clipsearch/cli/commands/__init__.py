"""One module per command: it declares the options, calls the rooms below, and renders the result.

A module is imported only when its command runs, so it can import everything at the top.
"""

COMMANDS = {
    "index": ("index", "Index folders of images, or update their indexes."),
    "search": ("search", "Find images by text or by example."),
    "browse": ("browse", "Search in a browser, on a page served by this machine."),
    "watch": ("watch", "Keep indexes up to date until interrupted."),
    "status": ("status", "Show what is indexed, with which model, and what was tested."),
    "duplicates": ("duplicates", "Find images that are the same or nearly the same."),
    "classify": ("classify", "Label images with the classes of a domain or a probe."),
    "evaluate": ("evaluate", "Test a model and a domain on labeled images."),
    "domain": ("domain", "Create, show or check a domain: what the images are about."),
    "probe": ("probe", "Train your own classes on labeled images."),
    "query": ("query", "Save queries under a name."),
    "embed": ("embed", "Embed images or archives of them into shards, without an index."),
    "export": ("transfer", "Write a collection's embeddings in clip-retrieval's layout."),
    "import": ("transfer", "Index images with embeddings that were made elsewhere."),
    "verify": ("verify", "Check that an index is intact and matches its images."),
    "models": ("status", "List models and where their weights are stored."),
    "doctor": ("doctor", "Check this installation and every known index."),
    "help": ("help", "Explain a topic: scores, queries, domains, models, recipes and more."),
}
"""Command -> its module, and one line for the help of the whole program."""
