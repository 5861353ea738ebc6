
m"
priority("
timeoutè*
aUINT82
y
classification: