package android.graphics

import java.awt.RenderingHints
import java.awt.image.BufferedImage
import java.io.File
import javax.imageio.ImageIO

/** Stand-ins for what Android has, by Java's own. An image is resized without antialiasing, and not turned by EXIF. */
class Bitmap(val image: BufferedImage) {
    enum class Config { ARGB_8888 }

    fun eraseColor(color: Int) {
        for (y in 0 until image.height) for (x in 0 until image.width) image.setRGB(x, y, color)
    }

    companion object {
        @JvmStatic
        fun createBitmap(width: Int, height: Int, @Suppress("UNUSED_PARAMETER") config: Config) =
            Bitmap(BufferedImage(width, height, BufferedImage.TYPE_INT_ARGB))
    }
}

class Paint

class Canvas(private val bitmap: Bitmap) {
    fun drawBitmap(drawn: Bitmap, left: Float, top: Float, @Suppress("UNUSED_PARAMETER") paint: Paint?) {
        bitmap.image.createGraphics().drawImage(drawn.image, left.toInt(), top.toInt(), null)
    }
}

object Color {
    @JvmStatic
    fun parseColor(color: String): Int = (0xff000000 or color.removePrefix("#").toLong(16)).toInt()
}

class ImageDecoder private constructor() {
    class Source(val file: File)
    class ImageInfo

    fun interface OnHeaderDecodedListener {
        fun onHeaderDecoded(decoder: ImageDecoder, info: ImageInfo, source: Source)
    }

    var allocator = ALLOCATOR_DEFAULT
    private var size: Pair<Int, Int>? = null

    fun setTargetSize(width: Int, height: Int) {
        size = width to height
    }

    companion object {
        const val ALLOCATOR_DEFAULT = 0
        const val ALLOCATOR_SOFTWARE = 1

        @JvmStatic
        fun createSource(file: File) = Source(file)

        @JvmStatic
        fun decodeBitmap(source: Source, listener: OnHeaderDecodedListener): Bitmap {
            val decoder = ImageDecoder()
            listener.onHeaderDecoded(decoder, ImageInfo(), source)
            check(decoder.allocator == ALLOCATOR_SOFTWARE) { "a bitmap of the GPU's can't be drawn by software" }
            val read = ImageIO.read(source.file)
            val (width, height) = decoder.size ?: (read.width to read.height)
            val scaled = BufferedImage(width, height, BufferedImage.TYPE_INT_ARGB)
            val drawing = scaled.createGraphics()
            drawing.setRenderingHint(RenderingHints.KEY_INTERPOLATION, RenderingHints.VALUE_INTERPOLATION_BILINEAR)
            drawing.drawImage(read, 0, 0, width, height, null)
            return Bitmap(scaled)
        }
    }
}
