package android.content

/** A stand-in: the files of an app's assets lie in the working directory. */
class Context
