"""Domains: what an index is for, whether it was tested for that, and what its scores mean.

::

    taxonomy     a TOML file -> Domain: classes, templates, examples, pass marks, fingerprint
    ├── toml_lines   which line of the file a complaint is about
    └── policy       what no query, class or prompt may ask for; languages that were not tested
    words        class names and synonyms found in a text
    ├── background   prompts that have nothing to do with a domain
    └── gate         is a text query in the domain?  words, then embeddings
    zero_shot    class embeddings; pictures and texts ranked by probability
    labelled     a folder or a table of labelled pictures -> paths and classes, or captions
    evaluation   embeddings and labels -> measures with intervals -> pass marks met or not
    └── intervals    95 % intervals of shares and means
    probe        classes learned from labelled pictures, by logistic regression
    calibration  background scores -> false-alarm rate; right and wrong hits -> precision

How they meet, for a model and a collection (the command line does the wiring; nothing here opens
an index or loads a model):

    index     taxonomy.load -> Gate.build -> background.unrelated -> encode -> best_scores
              -> FalseAlarms; and best_scores_of_others for image queries
    search    policy.check -> policy.language_note -> Gate.check -> ranked hits
              -> FalseAlarms.rate, Precision.probability
    evaluate  labelled.read -> embeddings -> class_embeddings -> evaluate_classification (or
              evaluate_retrieval) -> shortfalls -> tested or failed; fit_precision
    classify  class_embeddings -> classify; policy.check -> classify with any texts
    probe     labelled.own_taxonomy -> labelled.read -> embeddings -> held_out, train

Everything takes arrays, an ``Encoder`` and records, and gives records back; what is kept with an
index has ``to_json`` and ``from_json``, or ``to_bytes`` and ``from_bytes``. numpy alone is needed.
"""
