"""The way of an agent to its model: every call recorded, every secret and budget on this side.

base        one call and one reply, whatever the dialect; what an upstream is
dialects    OpenAI chat completions, OpenAI responses, Anthropic messages: read, answer, stream
session     one rollout's calls: budgets, the record, the policy version
server      HTTP on a socket that listens inside the sandbox
upstreams   who answers: OpenAI-compatible servers, Anthropic, a script
sequences   token ids and log probabilities as sequences a trainer takes
"""
