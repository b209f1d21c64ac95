"""The local web page: browse results, and steer a model live.

``app`` puts the routes together, ``guard`` decides who may ask, ``browse`` reads a results folder, ``queue`` lets one
request at a time use the model that ``live`` keeps, ``steering`` turns a request into an edit and into a shell command,
``serve`` runs it. The page itself is in ``static``: plain modules and a style sheet that need no build and no network.
"""
