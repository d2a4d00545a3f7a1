"""Business rules, one class per resource. They raise the domain errors of `app.errors`."""
