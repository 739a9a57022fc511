import android.content.Context
import java.io.File

/** Prints what the card's code of a file that gives logits, or probabilities, finds in a photo. */
fun main(arguments: Array<String>) {
    val (gives, photo) = arguments
    val found = when (gives) {
        "logits" -> logits.Classifier(Context()).use { it.classify(File(photo)) }
        else -> probabilities.Classifier(Context()).use { it.classify(File(photo)) }
    }
    found.forEach { (label, probability) -> println("$probability $label") }
}
