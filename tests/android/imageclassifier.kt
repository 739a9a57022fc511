package com.google.mediapipe.tasks.vision.imageclassifier

import android.content.Context
import com.google.mediapipe.framework.image.MPImage
import java.io.File
import javax.imageio.ImageIO

/** Stand-ins with MediaPipe's names, which give the scores that a file holds, and write what they are asked about. */
class Category(private val score: Float, private val categoryName: String) {
    fun score() = score
    fun categoryName() = categoryName
}

class Classifications(private val categories: List<Category>) {
    fun categories() = categories
}

class ClassificationResult(private val classifications: List<Classifications>) {
    fun classifications() = classifications
}

class ImageClassifierResult(private val classificationResult: ClassificationResult) {
    fun classificationResult() = classificationResult
}

class ImageClassifier private constructor() : AutoCloseable {
    fun classify(image: MPImage): ImageClassifierResult {
        ImageIO.write(image.bitmap.image, "png", File("seen.png"))
        val categories = File("scores.txt").readLines().map { line ->
            val (score, name) = line.split(" ", limit = 2)
            Category(score.toFloat(), name)
        }
        return ImageClassifierResult(ClassificationResult(listOf(Classifications(categories.sortedBy { -it.score() }))))
    }

    override fun close() {}

    companion object {
        @JvmStatic
        fun createFromFile(@Suppress("UNUSED_PARAMETER") context: Context, name: String): ImageClassifier {
            check(File(name).isFile) { "$name is not among the assets" }
            return ImageClassifier()
        }
    }
}
